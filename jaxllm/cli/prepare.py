"""jaxllm prepare: turns text into token shards with a train/validation split and a tokenizer.

  jaxllm prepare --config=configs/data/shakespeare.py --workdir=data/shakespeare
  jaxllm prepare --config=configs/data/text.py --config.input.paths="('texts/*.txt',)" --workdir=OUT
  jaxllm prepare --config=configs/data/web_en.py --workdir=gs://BUCKET/web --runner=beam -- \\
      --runner=DataflowRunner --project=PROJECT --region=REGION

What follows -- are Apache Beam's own options. launch/dataflow.sh writes such a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags as absl_flags

from jaxllm.cli.flags import parse

if TYPE_CHECKING:
    from jaxllm.core.display import Display
    from jaxllm.data.manifest import Manifest
    from jaxllm.data.prepare.runners.base import Runner

COLUMNS = ("split", "documents", "characters", "bytes", "tokens", "characters per token")
FLOW = ("stage", "documents in", "documents out", "bytes in", "bytes out", "tokens out, about")
REASONS = ("stage", "what", "documents dropped", "bytes dropped", "changes")
RUNNERS = ("local", "beam")


def main(argv: list[str]) -> int:
    """Runs the verb."""
    place = argv.index("--") if "--" in argv else len(argv)
    values, flags = parse(argv[:place], __doc__, _define, kind="prepare")

    from jaxllm.core.display import make_display
    from jaxllm.data.prepare.config import resolve_config
    from jaxllm.data.prepare.pipeline import prepare

    config = resolve_config(values)
    runner = _runner(flags.runner, flags.workers, argv[place + 1 :])
    with make_display() as display:
        manifest = prepare(config, flags.workdir, display, flags.overwrite, runner)
        _show(manifest, str(flags.workdir), display)
    return 0


def _show(manifest: Manifest, folder: str, display: Display) -> None:
    rows = [
        (name, s.documents, s.characters, s.bytes, s.tokens, f"{s.characters / s.tokens:.2f}")
        for name, s in manifest.splits.items()
    ]
    if reasons := _reasons(manifest):
        per_byte = sum(row[4] for row in rows) / sum(row[3] for row in rows)
        display.table("What each stage let through", FLOW, [
            (row.stage, row.before.documents, row.after.documents, row.before.bytes,
             row.after.bytes, round(row.after.bytes * per_byte))
            for row in manifest.flow
        ])
        display.table("What was dropped or changed", REASONS, reasons)
    display.table(folder, COLUMNS, rows)
    display.message(
        f"tokenizer: {manifest.tokenizer.kind}, vocabulary {manifest.tokenizer.vocab_size:,}, "
        f"in {folder}/tokenizer"
    )
    if manifest.rejected:
        reasons = ", ".join(f"{name} {count:,}" for name, count in manifest.rejected.items())
        display.warn(
            f"{sum(manifest.rejected.values()):,} records could not be read ({reasons}); "
            f"{folder}/quarantine.jsonl has them."
        )


def _reasons(manifest: Manifest) -> list[tuple]:
    rows = []
    for row in manifest.flow:
        rows += [(row.stage, reason, amount.documents, amount.bytes, None)
                 for reason, amount in row.dropped.items()]
        rows += [(row.stage, name, None, None, count) for name, count in row.changes.items()]
    return rows


def _runner(name: str, workers: int, options: list[str]) -> Runner:
    from jaxllm.core.errors import UserError, unknown

    if name not in RUNNERS:
        raise unknown("--runner", name, RUNNERS)
    if name == "beam":
        from jaxllm.data.prepare.runners.beam import BeamRunner

        if workers:
            raise UserError(
                f"--workers={workers} has no effect with --runner=beam: Beam has its own options, "
                "such as -- --max_num_workers=100 on Dataflow. Remove it."
            )
        return BeamRunner(options)
    if options:
        raise UserError(
            f"{options[0]!r} after -- is an option of Apache Beam: add --runner=beam, or remove it."
        )
    if workers < 0:
        raise UserError(f"--workers={workers} must not be negative; 0 is one for each core.")
    from jaxllm.data.prepare.runners.local import LocalRunner

    return LocalRunner(workers)


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_boolean(
        "overwrite", False, "Replace data in --workdir that was prepared with other settings.",
        flag_values=values,
    )
    absl_flags.DEFINE_integer(
        "workers", 0, "Processes on this machine; 0: one for each core.", flag_values=values,
    )
    absl_flags.DEFINE_string(
        "runner", "local", "local, or beam (Apache Beam; its options follow --).",
        flag_values=values,
    )
