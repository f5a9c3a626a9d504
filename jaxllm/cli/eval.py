"""jaxllm eval: the loss of models on prepared data, side by side.

  jaxllm eval --model=runs/base,runs/domain --data=data/general,data/domain
"""

from __future__ import annotations

from absl import flags

from jaxllm.cli.flags import parse, required


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    models, data = required(values, "model"), required(values, "data")

    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start()
    from jaxllm.evals.perplexity import comparison, evaluate_perplexity

    with make_display() as display:
        results = evaluate_perplexity(
            models, data, display, batch_size=values.batch_size, batches=values.batches,
            sequence_length=values.sequence_length,
        )
        for field, title in (
            ("loss", "loss (nats per token)"), ("perplexity", "perplexity per token"),
            ("accuracy", "accuracy of the likeliest token"), ("bits_per_byte", "bits per byte"),
        ):
            display.table(title, *comparison(results, field))
    return 0


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "model", None, "Run directories (RUN or RUN@STEP) or Hugging Face folders, with commas.",
        flag_values=values,
    )
    flags.DEFINE_list("data", None, "Prepared folders, comma-separated.", flag_values=values)
    flags.DEFINE_integer("batch_size", 16, "Rows per step.", flag_values=values, lower_bound=1)
    flags.DEFINE_integer(
        "batches", 0, "Steps per folder; 0: the whole validation split.", flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "sequence_length", 0, "Tokens per row; 0: what the model was trained with.",
        flag_values=values, lower_bound=0,
    )
