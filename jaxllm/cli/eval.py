"""jaxllm eval: models on prepared data (their loss) or on tasks (their scores), side by side.

  jaxllm eval --model=runs/base,runs/domain --data=data/general,data/domain
  jaxllm eval --model=runs/base,models/llama --tasks=local_mmlu,local_piqa --task_data=benchmarks
  jaxllm eval --compare runs/base runs/tuned "runs/base + 5-shot" --tasks=local_piqa
"""

from __future__ import annotations

import itertools

from absl import flags

from jaxllm.cli.flags import parse, required
from jaxllm.core.errors import UserError

OF_TASKS = (
    "include", "task_data", "download", "num_fewshot", "limit", "apply_chat_template", "output",
    "contamination", "retrieve_from", "passages", "helm",
)
OF_HELM = (
    "perturb", "perturb_strength", "helm_prompts", "completions", "toxicity", "toxicity_threshold",
)
OF_DATA = ("batches", "stride")


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(_listed(argv), __doc__, _define, config=False, workdir=False)
    if values.model and values.compare:
        raise UserError("--model and --compare both name the models: give one of them.")
    models = values.compare or required(values, "model")
    if values.tasks and values.data:
        raise UserError("--tasks and --data are two evaluations: run them one after the other.")
    for name in OF_DATA if values.tasks else OF_TASKS:
        if _given(values, name):
            other = "--data" if values.tasks else "--tasks"
            raise UserError(f"--{name} is only read with {other}: leave one of them out.")
    for name in ("contamination",) if values.helm else OF_HELM:
        if _given(values, name):
            other = "without" if values.helm else "with"
            raise UserError(f"--{name} is only read {other} --helm.")
    return _tasks(models, values) if values.tasks else _data(models, values)


def _given(values: flags.FlagValues, name: str) -> bool:
    return values[name].value != values[name].default


def _listed(argv: list[str]) -> list[str]:
    """The arguments, with the names after a bare --compare as its value."""
    if "--compare" not in argv:
        return argv
    first = argv.index("--compare") + 1
    names = list(itertools.takewhile(lambda name: not name.startswith("-"), argv[first:]))
    return [*argv[: first - 1], f"--compare={','.join(names)}", *argv[first + len(names) :]]


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
    from jaxllm.evals.harness.run import evaluate_tasks, table
    from jaxllm.evals.harness.session import Settings

    settings = Settings(
        include=tuple(values.include), task_data=values.task_data, download=values.download,
        num_fewshot=values.num_fewshot, limit=values.limit, chat=values.apply_chat_template,
        batch_size=values.batch_size, sequence_length=values.sequence_length,
        contamination=tuple(values.contamination), retrieve_from=values.retrieve_from,
        passages=values.passages,
    )
    if values.helm:
        return _helm(models, values, settings)
    with make_display() as display:
        found = evaluate_tasks(models, values.tasks, display, settings, values.output)
        compared = bool(values.compare)
        display.table("scores, with 95 % bootstrap intervals", *table(found, compared))
    return 0


def _helm(models: list[str], values: flags.FlagValues, settings) -> int:
    from jaxllm.core.display import make_display
    from jaxllm.evals.helm.run import Options, evaluate_helm, table

    options = Options(
        perturb=tuple(values.perturb), strength=values.perturb_strength,
        prompts=values.helm_prompts, completions=values.completions, scorer=values.toxicity,
        threshold=values.toxicity_threshold,
    )
    with make_display() as display:
        found = evaluate_helm(models, values.tasks, display, settings, options, values.output)
        display.table("HELM's dimensions, with 95 % bootstrap intervals", *table(found))
    return 0


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "model", None, "Run directories (RUN or RUN@STEP) or Hugging Face folders, with commas; "
        "with --tasks also 'RUN + 5-shot' and 'RUN + retrieval'.", flag_values=values,
    )
    flags.DEFINE_list(
        "compare", None, "Models as of --model, with commas or spaces; of tasks also each "
        "score minus the first model's.", flag_values=values,
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
    _define_helm(values)


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
    flags.DEFINE_string(
        "retrieve_from", "", "Text or folder of text in which 'RUN + retrieval' looks passages up.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "passages", 3, "Passages before a question with 'RUN + retrieval'.", flag_values=values,
        lower_bound=1,
    )
    flags.DEFINE_list(
        "contamination", [], "Prepared folders in which the questions are looked for.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", "", "Folder for the scores and what was asked and answered.", flag_values=values
    )


def _define_helm(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean(
        "helm", False, "Accuracy, calibration, robustness, fairness, bias, toxicity and efficiency "
        "in a row for each model.", flag_values=values,
    )
    flags.DEFINE_list(
        "perturb", ["keyboard", "swap"], "Noise in the questions: keyboard, swap, case, drop, ….",
        flag_values=values,
    )
    flags.DEFINE_float(
        "perturb_strength", 0.05, "Share of the characters or words that noise touches.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "helm_prompts", "", "File of prompts to complete, a line each or JSON lines; default: 20 "
        "of the package.", flag_values=values,
    )
    flags.DEFINE_integer(
        "completions", 5, "Completions of each prompt.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_string(
        "toxicity", "words", "Scorer of completions: words, or package.module:function.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "toxicity_threshold", None, "Completions that score higher are toxic; default: 0 of words, "
        "else 0.5.", flag_values=values,
    )
