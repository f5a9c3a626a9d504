"""jaxllm preview: shows a training batch as coloured text, with its documents and padding.

  jaxllm preview --config=configs/quickstart.py
  jaxllm preview --config=configs/quickstart.py --step=500 --rows=2
"""

from __future__ import annotations

from absl import flags as absl_flags

from jaxllm.cli.flags import parse


def main(argv: list[str]) -> int:
    """Runs the verb."""
    values, flags = parse(argv, __doc__, _define, workdir=False)

    from jaxllm.core.display import make_display
    from jaxllm.data.preview import preview
    from jaxllm.train.config import resolve_config

    config = resolve_config(values)
    with make_display() as display:
        preview(
            config.data, config.seed, flags.step, flags.rows, display,
            decoder_start_id=config.model.decoder_start_id,
        )
    return 0


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer(
        "step", 1, "The training step whose batch is shown, as counted in metrics.jsonl.",
        lower_bound=1, flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "rows", 4, "How many of its rows.", lower_bound=1, flag_values=values
    )
