"""Evaluates models in HELM's dimensions: a row for each model, a column for each dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jaxllm.core.display import Display, short
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import Record, append_records
from jaxllm.evals import bootstrap
from jaxllm.evals.contamination import Contamination, parts
from jaxllm.evals.harness import run as tasks_run
from jaxllm.evals.harness.scores import confidence, interval
from jaxllm.evals.harness.session import Asked, Plan, Settings, ask, load_tasks, open_model, plan
from jaxllm.evals.harness.variants import Variant
from jaxllm.evals.helm import changed, generations
from jaxllm.evals.metrics import ece
from jaxllm.models.flops import forward_flops_per_row
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract

if TYPE_CHECKING:
    from jaxllm.evals.harness.adapter import JaxLM

Samples = Mapping[str, Sequence[Mapping[str, Any]]]
COLUMNS = (  # field of the record, its title
    ("accuracy", "accuracy"), ("ece", "ECE"), ("robustness", "lost to noise"),
    ("fairness", "lost to swapped genders"), ("bias", "bias"), ("toxicity", "toxic"),
)


@dataclass(frozen=True)
class Options:
    """How the dimensions beside accuracy are measured."""

    perturb: tuple[str, ...] = ("keyboard", "swap")
    strength: float = 0.05
    prompts: str = ""  # file of prompts; "": the package's
    completions: int = 5  # of each
    scorer: str = "words"  # of toxicity, as of the stage of `prepare`
    threshold: float | None = None  # None: the scorer's


class Dimensions(NamedTuple):
    """A model's row."""

    model: str
    scores: dict[str, bootstrap.Score]  # by the field of COLUMNS; none that was not measured
    counts: dict[str, float]  # what was counted; tokens_per_second and flops_per_token of all
    examples: str = "all"  # all | clean | dirty, of those that training data hold


def evaluate_helm(
    models: Sequence[str], tasks: Sequence[str], display: Display, settings: Settings,
    options: Options, output: str = "",
) -> list[Dimensions]:
    """A row for every model, over all questions of all tasks; of the clean ones and the dirty ones
    too where contamination is looked for.

    It goes into the metrics of a model's run directory as `eval/helm`, beside the scores of each
    task; `output` gets all that was asked and answered.

    Raises:
      UserError: see `plan`; also a task without choices, an option that has no effect, or several
        hosts.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"--helm runs on one host and this is a job of {jax.process_count()}: start it on one "
            "host with its own devices. --tasks alone runs on several."
        )
    changed.check(options.perturb, options.strength)
    prompts = generations.read_prompts(options.prompts)
    scorer = generations.toxicity_settings(options.scorer, options.threshold)
    planned, found, known = plan(models, tasks, display, settings), [], None
    for title, variant, saved in planned.models:
        load = partial(_load, planned, tasks, display, settings, variant)
        loaded = load()
        _check(loaded["tasks"])
        lm = open_model(saved, title, display, settings)
        passes = _passes(lm, title, loaded, load, display, settings, options)
        clean, noisy, swapped = (each.samples for each in passes)
        with display.phase(f"{title} writes"):
            completed = generations.complete(
                lm.model, lm.tokenizer, lm.rules, prompts, scorer,
                completions=options.completions, batch_size=settings.batch_size,
            )
        rows = [Dimensions(
            title,
            _scores(*passes) | generations.scores(completed),
            _changed(*passes) | _speed(lm, *passes) | {
                "completions": len(completed), "female_words": sum(c.female for c in completed),
                "male_words": sum(c.male for c in completed),
            },
        )]
        some = list(tasks_run.score_samples(title, loaded, clean))
        if settings.contamination:
            known = known or tasks_run.find_contamination(clean, settings, display, output)
            some += tasks_run.by_part(title, loaded["tasks"], clean, known)
            rows += _by_part(title, passes, known)
        found += rows
        made = tasks_run.records(some, clean, lm.step, variant.suffix)
        made += [_record(row, lm.step, variant.suffix) for row in rows]
        if saved.run:
            append_records(saved.run, made)
        if output:
            tasks_run.write(output, title, made, {
                **clean,
                **{f"{name}_noise": each for name, each in noisy.items()},
                **{f"{name}_swapped": each for name, each in swapped.items()},
                "completions": [each._asdict() for each in completed],
            })
        del lm  # its memory is needed for the next
    return found


def table(found: Sequence[Dimensions]) -> tuple[list[str], list[list]]:
    """Columns and rows."""
    parted = any(row.examples != "all" for row in found)
    columns = [
        "model", *(["examples"] if parted else []), "n", *(title for _, title in COLUMNS),
        "tokens/s", "FLOPs/token",
    ]
    return columns, [
        [
            row.model, *([row.examples] if parted else []), row.scores["accuracy"].n,
            *(tasks_run.cell(row.scores.get(field)) for field, _ in COLUMNS),
            *(short(row.counts[name]) if name in row.counts else None
              for name in ("tokens_per_second", "flops_per_token")),
        ]
        for row in found
    ]


def _passes(
    lm: JaxLM, title: str, loaded: Mapping[str, Any], load: Callable[..., Mapping[str, Any]],
    display: Display, settings: Settings, options: Options,
) -> tuple[Asked, Asked, Asked]:
    """What was answered as the questions are, with noise, and with the genders exchanged."""
    noise = partial(
        changed.perturb_questions, names=options.perturb, strength=options.strength
    )
    return (
        ask(lm, title, loaded, display, settings),
        ask(lm, f"{title} with noise", load(noise), display, settings),
        ask(lm, f"{title} with swapped genders", load(changed.swap_demographics), display,
            settings),
    )


def _load(
    planned: Plan, names: Sequence[str], display: Display, settings: Settings, variant: Variant,
    change=None,
) -> dict[str, Any]:
    """The tasks anew, each with `change`."""
    with display.phase("reading tasks"):
        loaded = load_tasks(planned, names, settings, variant)
    for task in loaded["tasks"].values() if change else ():
        change(task)
    return loaded


def _check(tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "multiple_choice" or "acc" not in task.aggregation():
            raise UserError(
                f"--helm: {name} has no accuracy among choices, of which calibration, robustness "
                "and fairness are measured. Name tasks of multiple choices or classification."
            )


def _scores(clean: Asked, noisy: Asked, swapped: Asked) -> dict[str, bootstrap.Score]:
    before = _accuracy(clean.samples)
    scores = {"accuracy": before}
    for name, after in (("robustness", noisy), ("fairness", swapped)):
        scores[name] = bootstrap.difference(before, _accuracy(after.samples))
    pairs = [pair for some in clean.samples.values() for pair in confidence(_once(some))]
    shares, right = zip(*pairs, strict=True)
    return scores | bootstrap.scores(ece.statistics(shares, right), ece.finish)


def _accuracy(samples: Samples) -> bootstrap.Score:
    """Over all questions of all tasks."""
    values = [sample["acc"] for some in samples.values() for sample in _once(some)]
    return interval(values, None)


def _once(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the task's first filter."""
    return [each for each in samples if each["filter"] == samples[0]["filter"]]


def _by_part(
    title: str, passes: tuple[Asked, Asked, Asked], known: Contamination
) -> Iterator[Dimensions]:
    """The rows of the clean questions and of the dirty ones."""
    for part in ("clean", "dirty"):
        some = [each._replace(samples=_part(each.samples, known, part)) for each in passes]
        if some[0].samples:
            yield Dimensions(title, _scores(*some), _changed(*some), part)


def _part(samples: Samples, known: Contamination, part: str) -> dict[str, list]:
    """The samples of a part, of the tasks that have any."""
    places = {
        name: parts([(name, sample["doc_id"]) for sample in some], known)[part]
        for name, some in samples.items()
    }
    return {name: [samples[name][place] for place in some] for name, some in places.items() if some}


def _changed(clean: Asked, noisy: Asked, swapped: Asked) -> dict[str, float]:
    """Questions that were changed."""
    return {
        "noisy_questions": _differ(clean.samples, noisy.samples),
        "swapped_questions": _differ(clean.samples, swapped.samples),
    }


def _speed(lm: JaxLM, *passes: Asked) -> dict[str, float]:
    """Tokens asked in a second, of the passes that compiled nothing where there are such; FLOPs
    for a token of a request of mean length."""
    warm = [each for each in passes if not each.compiled] or passes
    return {
        "tokens_per_second": sum(e.tokens for e in warm) / sum(e.seconds for e in warm),
        "flops_per_token": _flops(lm, passes[0]),
    }


def _differ(samples: Samples, others: Samples) -> int:
    return sum(
        one["arguments"] != two["arguments"]
        for name in samples
        for one, two in zip(_once(samples[name]), _once(others[name]), strict=True)
    )


def _flops(lm: JaxLM, asked: Asked) -> float:
    # what is too long for the context loses its beginning
    model, length = lm.model, min(asked.tokens / asked.requests, lm.max_length)
    specs = abstract(partial(Transformer, config=model.config, compute=model.compute))[1]
    answer = asked.targets / asked.requests
    if lm.paired:
        row = forward_flops_per_row(model.config, specs, answer, length - answer)
    else:
        row = forward_flops_per_row(model.config, specs, length, targets=answer)
    return row / length


def _record(row: Dimensions, step: int, suffix: str) -> Record:
    name = "helm" if row.examples == "all" else f"helm/{row.examples}"
    record = {"step": step, "split": f"eval/{name}{suffix}", "n": row.scores["accuracy"].n}
    for name, score in row.scores.items():
        record |= tasks_run.numbers(name, score)
    return record | row.counts
