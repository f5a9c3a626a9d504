"""jaxllm plan: what a run needs and costs, without a device: memory, time, money, the best mesh.

  jaxllm plan --config=configs/llama3_8b.py:v6e-256
  jaxllm plan --config=configs/llama.py --topology=v5p-128
  jaxllm plan --config=configs/llama.py --topology=v6e:4x4 --budget_dollars=20000 --terms=spot
"""

from __future__ import annotations

from absl import flags

from jaxllm.cli.flags import parse, topology


def main(argv: list[str]) -> int:
    """Runs the verb."""
    values, options = parse(argv, __doc__, _define, workdir=False)

    from jaxllm.core.display import make_display
    from jaxllm.plan.plan import Budget, make_plan
    from jaxllm.plan.tables import show
    from jaxllm.train.config import resolve_config

    base = None
    if values.train.init_from:
        from jaxllm.models.load import find_model
        from jaxllm.train.origin import naming_init_from

        with naming_init_from(values.train.init_from):
            base = find_model(values.train.init_from).config
    plan = make_plan(
        resolve_config(values, base), topology(argv, options.topology), tokens=options.tokens,
        budget=Budget(options.budget_flops, options.budget_chip_days, options.budget_dollars),
        prices=options.prices, terms=options.terms, preset_name=values.model.preset or "",
    )
    with make_display() as display:
        show(plan, display)
    if options.output:
        plan.write(options.output)
        print(f"Wrote {options.output}")
    return 0


def _define(values: flags.FlagValues) -> None:
    def text(name: str, default: str, help_text: str) -> None:
        flags.DEFINE_string(name, default, help_text, flag_values=values)

    def number(name: str, help_text: str) -> None:
        flags.DEFINE_float(name, 0.0, help_text, flag_values=values, lower_bound=0.0)

    text("topology", "", "Chips: v5p:4x4x8 (grid), v5p-256 or v6e-256 (Cloud's names), 4xv5p-1024 "
         "(four slices), h200:8 or h200:4x8 (hosts x GPUs).")
    number("tokens", "Tokens of the run, instead of train.steps.")
    number("budget_flops", "FLOPs that the advice on size and tokens is for.")
    number("budget_chip_days", "The same as days of one chip at the predicted MFU.")
    number("budget_dollars", "The same as money, at the table's price on these --terms.")
    text("terms", "on_demand", "Of renting: on_demand, spot or committed.")
    text("prices", "", "A table of prices instead of ours, shaped as jaxllm/plan/prices.json.")
    text("output", "", "File to write the plan to, such as plan.json; jaxllm report draws it.")
