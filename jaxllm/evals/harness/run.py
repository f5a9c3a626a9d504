"""Evaluates models on tasks of lm-evaluation-harness: scores with intervals, counts, records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxllm.core.display import Display
from jaxllm.core.paths import atomic_write_text, make_directory, path
from jaxllm.core.rundir import Record, append_records
from jaxllm.data.prepare.evaluations.sets import Example, texts
from jaxllm.evals import bootstrap
from jaxllm.evals.contamination import Contamination, contamination, parts
from jaxllm.evals.harness.scores import confidence, pooled, task_scores
from jaxllm.evals.harness.session import Settings, ask, follow, load_tasks, open_model, plan
from jaxllm.evals.metrics import ece
from jaxllm.evals.scoring.follow import Tell, leading


@dataclass(frozen=True)
class TaskScore:
    """A metric of a task, by one of the task's filters."""

    model: str
    task: str
    metric: str
    score: bootstrap.Score
    examples: str = "all"  # all | clean | dirty, of those that training data hold


def evaluate_tasks(
    models: Sequence[str], tasks: Sequence[str], display: Display, settings: Settings,
    output: str = "",
) -> list[TaskScore]:
    """The scores of every model on every task, in their order.

    They also go into the metrics of a model's run directory as `eval/TASK`, and with `output` into
    that folder: scores.json, and what was asked and answered in samples_TASK.jsonl. The first of
    several hosts does all this; the others compute what it tells them, and have no scores.

    Raises:
      UserError: see `plan`; also a model that generates no text, or a task that runs code.
    """
    if jax.process_index():
        follow(display, settings)
        return []
    with leading() as tell:
        return _evaluated(models, tasks, display, settings, output, tell)


def _evaluated(
    models: Sequence[str], tasks: Sequence[str], display: Display, settings: Settings,
    output: str, tell: Tell,
) -> list[TaskScore]:
    planned = plan(models, tasks, display, settings)
    found: list[TaskScore] = []
    known = None
    for title, each, saved in planned.models:
        with display.phase("reading tasks"):
            loaded = load_tasks(planned, tasks, settings, each)
        lm = open_model(saved, title, display, settings, tell)
        samples = ask(lm, title, loaded, display, settings).samples
        scores = list(score_samples(title, loaded, samples))
        if settings.contamination:
            known = known or find_contamination(samples, settings, display, output)
            scores += by_part(title, loaded["tasks"], samples, known)
        found += scores
        made = records(scores, samples, lm.step, each.suffix)
        if saved.run:
            append_records(saved.run, made)
        if output:
            write(output, title, made, samples)
        del lm  # its memory is needed for the next
    return found


def score_samples(
    title: str, loaded: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[TaskScore]:
    """The scores of every task, and of every group over the examples of its tasks."""
    for name, some in samples.items():
        for metric, score in task_scores(loaded["tasks"][name], some):
            yield TaskScore(title, name, metric, score)
    for name, group in loaded.get("groups", {}).items():
        below = [samples[task.task_name] for task in group.get_all_tasks()]
        for metric, score in pooled(below):
            yield TaskScore(title, name, metric, score)


def table(found: Sequence[TaskScore], compared: bool = False) -> tuple[list[str], list[list]]:
    """Columns and rows: a row per task, metric and part of the examples, a column per model.

    With `compared` each model but the first has a second column, its score minus the first's.
    """
    models = list(dict.fromkeys(each.model for each in found))
    rows: dict[tuple[str, str, str], dict[str, bootstrap.Score]] = {}
    for each in found:
        rows.setdefault((each.task, each.metric, each.examples), {})[each.model] = each.score
    parted = any(each.examples != "all" for each in found)
    order = list(dict.fromkeys((task, metric) for task, metric, _ in rows))
    titles = [[model] for model in models]
    if compared:
        titles[1:] = [[model, f"{model} − {models[0]}"] for model in models[1:]]
    columns = ["task", "metric", *(["examples"] if parted else []), "n"]
    return columns + [title for some in titles for title in some], [
        [task, metric, *([part] if parted else []), next(iter(scores.values())).n,
         *_cells([scores.get(model) for model in models], compared)]
        for (task, metric, part), scores in sorted(
            rows.items(), key=lambda row: order.index(row[0][:2]))
    ]


def _cells(scores: Sequence[bootstrap.Score | None], compared: bool) -> Iterator[str | None]:
    first = scores[0]
    for place, score in enumerate(scores):
        yield cell(score)
        if compared and place:
            yield cell(bootstrap.difference(score, first) if score and first else None, "+")


def cell(score: bootstrap.Score | None, sign: str = "") -> str | None:
    """A score with its interval, None where there is none; `sign` "+" shows that of gains."""
    if score is None or not np.isfinite(score.value):
        return None
    value, low, high = (f"{x:{sign}.4f}" for x in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def find_contamination(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], settings: Settings, display: Display,
    output: str,
) -> Contamination:
    """Which questions the training data hold; their texts are in the output folder."""
    asked = {
        (task, sample["doc_id"]): Example(task, sample["doc_id"], tuple(texts(sample["doc"])))
        for task, some in samples.items() for sample in some
    }
    found = contamination(asked.values(), settings.contamination, display)
    display.message(
        f"contamination: {len(found.dirty)} of {len(asked)} examples are in the "
        f"{found.documents:,} documents of {', '.join(settings.contamination)}"
    )
    if output:
        atomic_write_text(make_directory(path(output)) / "contamination.txt", found.text())
    return found


def by_part(
    title: str, tasks: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]],
    found: Contamination,
) -> Iterator[TaskScore]:
    """The scores of the clean examples and of the dirty ones."""
    for task, some in samples.items():
        places = parts([(task, sample["doc_id"]) for sample in some], found)
        for part in ("clean", "dirty"):
            chosen = [some[place] for place in places[part]]
            for metric, score in task_scores(tasks[task], chosen) if chosen else ():
                yield TaskScore(title, task, metric, score, part)


def records(
    scores: Sequence[TaskScore], samples: Mapping[str, Sequence[Mapping[str, Any]]], step: int,
    suffix: str = "",
) -> list[Record]:
    """A record for each task, its name with `suffix`; what is not finite has no number.

    `calibration` is the curve of a task of multiple choices: [examples, mean confidence, accuracy]
    of every bin.
    """
    made: dict[str, Record] = {}
    for each in scores:
        name = each.task if each.examples == "all" else f"{each.task}/{each.examples}"
        record = made.setdefault(
            name, {"step": step, "split": f"eval/{name}{suffix}", "n": each.score.n}
        )
        record |= numbers(each.metric.replace(" ", "_"), each.score)
        if each.metric == "ece" and each.examples == "all":
            shares, right = zip(*confidence(samples[name]), strict=True)
            record["calibration"] = [
                [bin["n"], bin["confidence"], bin["accuracy"]] for bin in ece.curve(shares, right)
            ]
    return list(made.values())


def numbers(name: str, score: bootstrap.Score) -> dict[str, float | None]:
    """A score as the fields NAME, NAME_low and NAME_high of a record."""
    values = {"": score.value, "_low": score.low, "_high": score.high}
    return {name + end: value if np.isfinite(value) else None for end, value in values.items()}


def write(
    output: str, title: str, made: Sequence[Record],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes scores.json, and samples_TASK.jsonl of every task, into a folder of the model."""
    folder = make_directory(path(output) / title)
    text = json.dumps(made, indent=1, ensure_ascii=False)
    atomic_write_text(folder / "scores.json", text + "\n")
    for task, some in samples.items():
        lines = [json.dumps(each, ensure_ascii=False, default=str) for each in some]
        atomic_write_text(folder / f"samples_{task}.jsonl", "\n".join(lines) + "\n")
