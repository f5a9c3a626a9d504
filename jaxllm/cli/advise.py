"""jaxllm advise: which approach suits a goal, data and hardware, with reasons, memory and time.

  jaxllm advise --goal=classify --examples=10000 --hardware=cpu
  jaxllm advise --goal=chat --examples=20000 --model=llama3.1_8b --hardware=rtx4090
  jaxllm advise --goal=domain --domain_tokens=2e9 --examples=5000 --hardware=v5e-8
  jaxllm advise --config=configs/tune/instruct.py --examples=300 --hardware=l4
"""

from __future__ import annotations

import json
import re

from absl import flags

from jaxllm.cli.flags import parse, required


def main(argv: list[str]) -> int:
    """Runs the verb."""
    named = any(re.match(r"--?(config(=|$)|help$|h$)", argument) for argument in argv)
    recipe, values = parse(argv, __doc__, _define, config=named, workdir=False)

    from jaxllm.core.display import make_display
    from jaxllm.core.paths import atomic_write_text, make_directory, path
    from jaxllm.plan.advice_tables import show
    from jaxllm.plan.advise import advise
    from jaxllm.plan.situation import Situation, goal_of

    goal, model = values.goal, values.model
    if recipe is not None:
        goal = goal or goal_of(recipe.data.objective, bool(recipe.train.init_from))
        model = model or ("" if values.parameters else recipe.model.preset or "")
    advice = advise(Situation(
        goal or required(values, "goal"), values.examples, values.domain_tokens, model,
        values.parameters, values.hardware, values.memory, values.latency,
    ))
    with make_display() as display:
        show(advice, display)
    if values.output:
        make_directory(path(values.output).parent)
        atomic_write_text(values.output, json.dumps(advice.to_dict(), indent=1) + "\n")
        print(f"Wrote {values.output}")
    return 0


def _define(values: flags.FlagValues) -> None:
    def number(name: str, help_text: str) -> None:
        flags.DEFINE_float(name, 0.0, help_text, flag_values=values)

    def text(name: str, default: str, help_text: str) -> None:
        flags.DEFINE_string(name, default, help_text, flag_values=values)

    text("goal", "", "classify, extract, chat, transform, answer, domain or language.")
    flags.DEFINE_integer(
        "examples", 0, "Labelled rows, pairs or conversations.", flag_values=values
    )
    number("domain_tokens", "Tokens of running text, or of documents to look into.")
    text("model", "", "Preset that would be used, such as llama3.1_8b; else one for the goal.")
    number("parameters", "Instead of --model: the nearest preset.")
    text("hardware", "cpu", "cpu, rtx4090, l4, a100:8, h100x1, or a slice such as v5e-8.")
    number("memory", "GB of a device, instead of its data sheet's.")
    number("latency", "Milliseconds that an answer may take; 0: any.")
    text("output", "", "JSON file to write the advice to.")
