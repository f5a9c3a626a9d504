"""jaxllm preview: shows a training batch, or prepared data, to look at before a model sees it.

  jaxllm preview --config=configs/quickstart.py
  jaxllm preview --config=configs/quickstart.py --step=500 --rows=2
  jaxllm preview --data=data/web --rows=5

--config shows a batch as coloured text, with its documents and padding, or with the conversations,
labels and pairs of rows; what is not learned is struck. --data shows what
`jaxllm prepare` made of a corpus: what each stage let through and dropped, lengths, languages,
sources, duplicates, and documents of each kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from jaxllm.cli.flags import missing, parse
from jaxllm.core.errors import UserError

if TYPE_CHECKING:
    from jaxllm.models.config import ModelConfig

ROWS = 4  # of a batch
SAMPLES = 3  # documents of a reason


def main(argv: list[str]) -> int:
    """Runs the verb."""
    given = {match[1] for one in argv if (match := re.match(r"--?(\w+)", one))}
    if "data" in given:
        return _show_data(argv, given)
    if not given & {"config", "help", "h"}:
        raise UserError(f"{missing('config')} To look at prepared data, give --data=FOLDER.")
    values, flags = parse(argv, __doc__, _define, workdir=False)

    from jaxllm.core.display import make_display
    from jaxllm.data.objectives import trains_on_rows
    from jaxllm.data.preview import preview
    from jaxllm.train.config import resolve_config
    from jaxllm.train.origin import tokenizer_folder

    on_rows = trains_on_rows(values.data.objective)
    base = _base(values.train.init_from) if on_rows else None
    config = resolve_config(values, base)
    tokenizer = tokenizer_folder(config) if on_rows else ""
    with make_display() as display:
        preview(
            config.data, config.seed, flags.step, flags.rows or ROWS, display,
            config.model.decoder_start_id, tokenizer,
        )
    return 0


def _base(name: str) -> ModelConfig | None:
    """The model of `train.init_from`, "" for none."""
    from jaxllm.models.load import find_model
    from jaxllm.train.origin import naming_init_from

    if not name:
        return None
    with naming_init_from(name):
        return find_model(name).config


def _show_data(argv: list[str], given: set[str]) -> int:
    for name, why in (
        ("config", "--config shows a training batch instead: give one of the two"),
        ("step", "prepared data has no training steps: remove it"),
    ):
        if name in given:
            raise UserError(f"--{name} has no effect beside --data: {why}.")
    _, flags = parse(argv, __doc__, _define, config=False, workdir=False)
    if not flags.data:
        raise missing("data")

    from jaxllm.core.display import make_display
    from jaxllm.data.prepare.show import show

    with make_display() as display:
        show(flags.data, flags.rows or SAMPLES, display)
    return 0


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string(
        "data", None, "A folder that `jaxllm prepare` wrote, instead of --config.",
        flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "step", 1, "The training step whose batch is shown, as counted in metrics.jsonl.",
        lower_bound=1, flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "rows", None, f"How many of its rows ({ROWS}), or with --data documents of each kind "
        f"({SAMPLES}).", lower_bound=1, flag_values=values,
    )
