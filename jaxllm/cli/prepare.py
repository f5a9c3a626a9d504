"""jaxllm prepare: turns text into token shards with a train/validation split and a tokenizer.

  jaxllm prepare --config=configs/data/shakespeare.py --workdir=runs/data/shakespeare
  jaxllm prepare --config=configs/data/text.py --config.input.paths="('texts/*.txt',)" --workdir=OUT
"""

from __future__ import annotations

from absl import flags as absl_flags

from jaxllm.cli.flags import parse

COLUMNS = ("split", "documents", "characters", "bytes", "tokens", "characters per token")


def main(argv: list[str]) -> int:
    """Runs the verb."""
    values, flags = parse(argv, __doc__, _define, kind="prepare")

    from jaxllm.core.display import make_display
    from jaxllm.data.prepare.config import resolve_config
    from jaxllm.data.prepare.pipeline import prepare

    config = resolve_config(values)
    with make_display() as display:
        manifest = prepare(config, flags.workdir, display, flags.overwrite)
        rows = [
            (name, s.documents, s.characters, s.bytes, s.tokens, round(s.characters / s.tokens, 2))
            for name, s in manifest.splits.items()
        ]
        rows += [
            (f"dropped ({reason})", dropped.documents, dropped.characters, None, None, None)
            for reason, dropped in manifest.dropped.items()
        ]
        display.table(str(flags.workdir), COLUMNS, rows)
        display.message(
            f"tokenizer: {manifest.tokenizer.kind}, vocabulary {manifest.tokenizer.vocab_size:,}, "
            f"in {flags.workdir}/tokenizer"
        )
    return 0


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_boolean(
        "overwrite", False, "Replace data in --workdir that was prepared with other settings.",
        flag_values=values,
    )
