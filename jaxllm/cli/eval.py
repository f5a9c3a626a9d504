"""jaxllm eval: models on prepared data (their loss) or on tasks (their scores), side by side.

  jaxllm eval --model=runs/base,runs/domain --data=data/general,data/domain
  jaxllm eval --model=runs/base,models/llama --tasks=local_mmlu,local_piqa --task_data=benchmarks
"""

from __future__ import annotations

from absl import flags

from jaxllm.cli.flags import parse, required
from jaxllm.core.errors import UserError

OF_TASKS = (
    "include", "task_data", "download", "num_fewshot", "limit", "apply_chat_template", "output",
    "contamination",
)
OF_DATA = ("batches", "stride")


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    models = required(values, "model")
    if values.tasks and values.data:
        raise UserError("--tasks and --data are two evaluations: run them one after the other.")
    for name in OF_DATA if values.tasks else OF_TASKS:
        if values[name].value != values[name].default:
            other = "--data" if values.tasks else "--tasks"
            raise UserError(f"--{name} is only read with {other}: leave one of them out.")
    return _tasks(models, values) if values.tasks else _data(models, values)


def _data(models: list[str], values: flags.FlagValues) -> int:
    data = required(values, "data")

    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start()
    from jaxllm.evals.perplexity import comparison, evaluate_perplexity

    with make_display() as display:
        if values.stride:
            return _strided(models, data, values, display)
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


def _strided(models: list[str], data: list[str], values: flags.FlagValues, display) -> int:
    from jaxllm.evals.language.strided import evaluate_strided, table

    if values.batches:
        raise UserError("--batches has no effect with --stride, which scores whole documents.")
    found = evaluate_strided(
        models, data, display, stride=values.stride, batch_size=values.batch_size,
        sequence_length=values.sequence_length,
    )
    for field, title in (
        ("loss", "loss (nats per token of the model's own tokenizer)"),
        ("bits_per_byte", "bits per byte"), ("word_perplexity", "perplexity per word"),
        ("byte_perplexity", "perplexity per byte"),
    ):
        display.table(f"{title}, with 95 % bootstrap intervals", *table(found, field))
    return 0


def _tasks(models: list[str], values: flags.FlagValues) -> int:
    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start()
    from jaxllm.evals.harness.run import Settings, evaluate_tasks, table

    settings = Settings(
        include=tuple(values.include), task_data=values.task_data, download=values.download,
        num_fewshot=values.num_fewshot, limit=values.limit, chat=values.apply_chat_template,
        batch_size=values.batch_size, sequence_length=values.sequence_length,
        contamination=tuple(values.contamination),
    )
    with make_display() as display:
        found = evaluate_tasks(models, values.tasks, display, settings, values.output)
        display.table("scores, with 95 % bootstrap intervals", *table(found))
    return 0


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "model", None, "Run directories (RUN or RUN@STEP) or Hugging Face folders, with commas; "
        "with --tasks also 'RUN + 5-shot'.", flag_values=values,
    )
    flags.DEFINE_list("data", None, "Prepared folders, comma-separated.", flag_values=values)
    flags.DEFINE_list(
        "tasks", None, "Tasks or groups of lm-evaluation-harness, with commas.",
        flag_values=values,
    )
    flags.DEFINE_integer("batch_size", 16, "Rows per step.", flag_values=values, lower_bound=1)
    flags.DEFINE_integer(
        "batches", 0, "Steps per folder; 0: the whole validation split.", flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "stride", 0, "Scores whole documents by windows this many tokens apart; 0: rows side by "
        "side.", flag_values=values, lower_bound=0,
    )
    flags.DEFINE_integer(
        "sequence_length", 0, "Tokens per row; 0: what the model was trained with.",
        flag_values=values, lower_bound=0,
    )
    _define_tasks(values)


def _define_tasks(values: flags.FlagValues) -> None:
    flags.DEFINE_list("include", [], "Folders of task files (YAML).", flag_values=values)
    flags.DEFINE_string(
        "task_data", "", "Folder of benchmarks, in which a folder TASK has its splits.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "download", False, "Lets tasks fetch their data from the network.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_fewshot", -1, "Examples before each question; -1: as the task says.",
        flag_values=values, lower_bound=-1,
    )
    flags.DEFINE_integer(
        "limit", 0, "Examples of each task; 0: all.", flag_values=values, lower_bound=0
    )
    flags.DEFINE_boolean(
        "apply_chat_template", False, "Asks as a conversation, by the tokenizer's template.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "contamination", [], "Prepared folders in which the questions are looked for.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", "", "Folder for the scores and what was asked and answered.", flag_values=values
    )
