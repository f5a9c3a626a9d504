"""jaxllm eval: models on data (their loss), tasks (their scores) or programming problems (pass@k).

  jaxllm eval --model=runs/base,runs/domain --data=data/general,data/domain
  jaxllm eval --model=runs/base,models/llama --tasks=local_mmlu,local_piqa --task_data=benchmarks
  jaxllm eval --compare runs/base runs/tuned "runs/base + 5-shot" --tasks=local_piqa
  jaxllm eval --model=runs/base --problems=HumanEval.jsonl --pass_at=1,10 --allow_code_execution
"""

from __future__ import annotations

import itertools
import os

from absl import flags

from jaxllm.cli.eval_flags import define, mode
from jaxllm.cli.flags import parse, required
from jaxllm.core.errors import UserError


def main(argv: list[str]) -> int:
    """Runs the verb."""
    _, values = parse(_listed(argv), __doc__, define, config=False, workdir=False)
    if values.model and values.compare:
        raise UserError("--model and --compare both name the models: give one of them.")
    models = values.compare or required(values, "model")
    return {"data": _data, "tasks": _tasks, "problems": _problems}[mode(values)](models, values)


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

    devices.start()
    import jax

    from jaxllm.evals.perplexity import comparison, evaluate_perplexity

    with _display() as display:
        if values.stride:
            return _strided(models, data, values, display)
        results = evaluate_perplexity(
            models, data, display, batch_size=values.batch_size, batches=values.batches,
            sequence_length=values.sequence_length,
        )
        for field, title in () if jax.process_index() else (
            ("loss", "loss (nats per token)"), ("perplexity", "perplexity per token"),
            ("accuracy", "accuracy of the likeliest token"), ("bits_per_byte", "bits per byte"),
        ):
            display.table(title, *comparison(results, field))
    return 0


def _display():
    """Of several hosts the first one speaks."""
    import jax

    from jaxllm.core.display import make_display

    return make_display(open(os.devnull, "w") if jax.process_index() else None)


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

    devices.start()
    from jaxllm.evals.harness.run import evaluate_tasks, table
    from jaxllm.evals.harness.session import Settings

    settings = Settings(
        include=tuple(values.include), task_data=values.task_data, download=values.download,
        num_fewshot=values.num_fewshot, limit=values.limit, chat=values.apply_chat_template,
        batch_size=values.batch_size, sequence_length=values.sequence_length,
        contamination=tuple(values.contamination), retrieve_from=values.retrieve_from,
        passages=values.passages, retriever=values.retriever,
    )
    if values.helm:
        return _helm(models, values, settings)
    with _display() as display:
        found = evaluate_tasks(models, values.tasks, display, settings, values.output)
        compared = bool(values.compare)
        if found:
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


def _problems(models: list[str], values: flags.FlagValues) -> int:
    from jaxllm.core import devices
    from jaxllm.core.display import make_display
    from jaxllm.evals.code.pass_at_k import check_allowed

    check_allowed(values.allow_code_execution)
    devices.start()
    from jaxllm.evals.code.run import Options, evaluate_code
    from jaxllm.evals.harness.run import table

    options = Options(
        pass_at=_numbers(values, "pass_at"), num_samples=values.num_samples,
        temperature=values.temperature, top_p=values.top_p, max_new_tokens=values.max_new_tokens,
        limit=values.limit, batch_size=values.batch_size, seed=values.seed,
    )
    with make_display() as display:
        found = evaluate_code(
            models, values.problems, display, options, values.output, allow_code_execution=True
        )
        compared = bool(values.compare)
        display.table("pass@k, with 95 % bootstrap intervals", *table(found, compared))
    return 0


def _numbers(values: flags.FlagValues, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in values[name].value)
    except ValueError as error:
        raise UserError(
            f"--{name}={','.join(values[name].value)}: whole numbers with commas between them are "
            "wanted, such as 1,10."
        ) from error
