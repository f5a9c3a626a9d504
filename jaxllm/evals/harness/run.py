"""Evaluates models on tasks of lm-evaluation-harness: scores with intervals, counts, records."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxllm.core.config import MeshConfig
from jaxllm.core.display import Display, short
from jaxllm.core.errors import UserError, naming_memory
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.core.paths import atomic_write_text, make_directory, path, shortest_names
from jaxllm.core.rundir import Record, append_records
from jaxllm.data.prepare.evaluations.sets import Example, texts
from jaxllm.evals import bootstrap
from jaxllm.evals.contamination import Contamination, contamination, parts
from jaxllm.evals.extras import need
from jaxllm.evals.harness.find import find_tasks
from jaxllm.evals.metrics import ece
from jaxllm.generate.defaults import read_defaults
from jaxllm.models.hf.importer import is_hf_folder
from jaxllm.models.load import SavedModel, find_model
from jaxllm.nn.compute import make_compute

if TYPE_CHECKING:
    from jaxllm.evals.harness.examples import Variant

MEMORY = "Lower --batch_size or --sequence_length."
DRAWS = 200  # of a metric that is not a mean: each computes lm-eval's own function
SEED = 1234  # of few-shot examples, lm-eval's own default


@dataclass(frozen=True)
class Settings:
    """How tasks are asked."""

    include: tuple[str, ...] = ()  # folders of task files
    task_data: str = ""  # folder of local data
    download: bool = False  # whether data may come from the Hugging Face hub
    num_fewshot: int = -1  # examples before each question; -1: as the task says
    limit: int = 0  # examples of a task; 0: all
    chat: bool = False  # questions as a conversation, few-shot examples as its turns
    batch_size: int = 16
    sequence_length: int = 0  # tokens of a context; 0: the model's own
    contamination: tuple[str, ...] = ()  # prepared folders that may hold the questions


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
    that folder: scores.json, and what was asked and answered in samples_TASK.jsonl.

    Raises:
      UserError: see `find_tasks`; also no such model, or one that generates no text, several
        hosts, or a task that runs code.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"--tasks runs on one host and this is a job of {jax.process_count()}: start it on "
            "one host with its own devices."
        )
    _quiet()
    with display.phase("finding tasks"):
        manager = find_tasks(tasks, settings.include, settings.task_data, settings.download)
    from jaxllm.evals.harness.examples import variant

    asked = [variant(name) for name in models]
    saved = [find_model(each.model) for each in asked]
    distinct = list(dict.fromkeys(each.model for each in asked))
    short_of = dict(zip(distinct, shortest_names([path(m) for m in distinct]), strict=True))
    titles = [short_of[each.model] + each.suffix for each in asked]
    found: list[TaskScore] = []
    known = None
    for title, each, model in zip(titles, asked, saved, strict=True):
        with display.phase("reading tasks"):
            loaded = _load(manager, tasks, settings, each)
        scores, results = _evaluate(model, title, loaded, display, settings)
        if settings.contamination:
            known = known or _contamination(results["samples"], settings, display, output)
            scores += _by_part(title, loaded["tasks"], results["samples"], known)
        found += scores
        if model.run:
            append_records(model.run, _records(scores, results["step"], each.suffix))
        if output:
            _write(output, title, scores, results)
    return found


def table(found: Sequence[TaskScore]) -> tuple[list[str], list[list]]:
    """Columns and rows: a row per task, metric and part of the examples, a column per model."""
    models = list(dict.fromkeys(each.model for each in found))
    rows: dict[tuple[str, str, str], dict[str, bootstrap.Score]] = {}
    for each in found:
        rows.setdefault((each.task, each.metric, each.examples), {})[each.model] = each.score
    parted = any(each.examples != "all" for each in found)
    order = list(dict.fromkeys((task, metric) for task, metric, _ in rows))
    return ["task", "metric", *(["examples"] if parted else []), "n", *models], [
        [task, metric, *([part] if parted else []), next(iter(scores.values())).n,
         *(_cell(scores.get(model)) for model in models)]
        for (task, metric, part), scores in sorted(
            rows.items(), key=lambda row: order.index(row[0][:2]))
    ]


def _quiet() -> None:
    """The display says what is done: lm-eval's and datasets' own bars and lines stay out."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    need("datasets", "--tasks").disable_progress_bars()
    for name in ("lm_eval", "lm_eval.api.task", "lm_eval.tasks"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _cell(score: bootstrap.Score | None) -> str | None:
    if score is None or not np.isfinite(score.value):
        return None
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"


def _load(
    manager, names: Sequence[str], settings: Settings, asked: Variant
) -> dict[str, Any]:
    from jaxllm.evals.harness.examples import choose_examples

    shots = settings.num_fewshot if asked.count < 0 else asked.count
    try:
        loaded = manager.load(list(names))
    except UserError:
        raise
    except Exception as error:  # a task file is code of its author
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"--tasks={','.join(names)}: its data or its task file cannot be read "
            f"({type(error).__name__}: {reason})."
        ) from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or task.config.unsafe_code:
            raise UserError(
                f"--tasks: {name} runs what the model writes as code, without a sandbox. Use "
                "jaxllm.evals.code.pass_at_k, which has one."
            )
        own = task.get_config("num_fewshot")
        if shots >= 0 and own != 0:  # 0 in a task file is meant
            task.set_config(key="num_fewshot", value=shots)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        choose_examples(task, asked.kind)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _evaluate(
    saved: SavedModel, title: str, loaded: Mapping[str, Any], display: Display, settings: Settings
) -> tuple[list[TaskScore], dict[str, Any]]:
    from lm_eval.evaluator import evaluate

    from jaxllm.evals.harness.adapter import JaxLM

    length = settings.sequence_length or _length(saved)
    saved.config.check_length(length, "sequence_length")
    with display.phase(f"reading {title}"):
        model = saved.load(make_compute(Sharding(make_mesh(MeshConfig()))), display.warn)
    rules = None
    if is_hf_folder(saved.name):
        rules = read_defaults(saved.name, model.config, lambda text: None).rules
    lm = JaxLM(
        model, saved.load_tokenizer(), display, batch_size=settings.batch_size, max_length=length,
        rules=rules,
    )
    begin = time.monotonic()
    size = f"A batch of batch_size={settings.batch_size} rows of {length} tokens"
    with naming_memory(size, MEMORY):
        results = evaluate(
            lm=lm, task_dict=loaded, limit=settings.limit or None, bootstrap_iters=0,
            apply_chat_template=settings.chat, fewshot_as_multiturn=settings.chat,
        )
    seconds, counts = time.monotonic() - begin, lm.scorer.counts
    display.message(
        f"{title}: {counts.requests:,} requests in {seconds:.0f} s, {counts.compiles} programs "
        f"compiled, {short(counts.computed / seconds)} tokens/s computed for "
        f"{short(counts.tokens / seconds)} tokens/s asked"
    )
    if counts.truncated:
        display.warn(
            f"{title}: {counts.truncated} of {counts.requests} requests are longer than the "
            f"context of {length} tokens and lost their beginning"
        )
    tasks, samples = loaded["tasks"], results["samples"]
    scores = [
        TaskScore(title, name, metric, score)
        for name, some in samples.items() for metric, score in _scores(tasks[name], some)
    ]
    for name, group in loaded.get("groups", {}).items():
        below = [samples[task.task_name] for task in group.get_all_tasks()]
        scores += [TaskScore(title, name, *each) for each in _pooled(below)]
    return scores, {"step": model.step, "samples": samples}


def _length(saved: SavedModel) -> int:
    """The context of a model: what it was trained with, or has positions for."""
    most = saved.config.positions.max_length
    if saved.run:
        return saved.data.sequence_length
    return most if saved.config.positions.kind != "relative" else saved.data.sequence_length


def _scores(task, samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bootstrap.Score]]:
    """(metric, score) for every filter, and the calibration of multiple choices."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    for name in filters:
        of_filter = [sample for sample in samples if sample["filter"] == name]
        suffix = "" if name == "none" else f" ({name})"
        for metric in of_filter[0]["metrics"]:
            values = [sample[metric] for sample in of_filter]
            yield metric + suffix, _interval(values, task.aggregation().get(metric))
    if task.OUTPUT_TYPE == "multiple_choice":
        calibrated = _confidence(samples)
        if calibrated:
            confidence, right = zip(*calibrated, strict=True)
            yield "ece", bootstrap.scores(ece.statistics(confidence, right), ece.finish)["ece"]


def _contamination(
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


def _by_part(
    title: str, tasks: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]],
    found: Contamination,
) -> Iterator[TaskScore]:
    """The scores of the clean examples and of the dirty ones."""
    for task, some in samples.items():
        places = parts([(task, sample["doc_id"]) for sample in some], found)
        for part in ("clean", "dirty"):
            chosen = [some[place] for place in places[part]]
            for metric, score in _scores(tasks[task], chosen) if chosen else ():
                yield TaskScore(title, task, metric, score, part)


def _pooled(tasks: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, bootstrap.Score]]:
    """(metric, score) of a group: the means over the examples of all its tasks, of metrics that
    all of them have and that are means."""
    kinds = [{(s["filter"], m) for s in samples for m in s["metrics"]} for samples in tasks]
    everything = [sample for samples in tasks for sample in samples]
    for name, metric in sorted(set.intersection(*kinds)):
        values = [sample[metric] for sample in everything if sample["filter"] == name]
        if all(isinstance(value, int | float | np.number) for value in values):
            suffix = "" if name == "none" else f" ({name})"
            yield metric + suffix, _interval(values, None)


def _interval(values: Sequence[Any], aggregate) -> bootstrap.Score:
    """A score by the task's own aggregation, with its bootstrap interval."""
    numbers = all(isinstance(value, int | float | np.number | np.bool_) for value in values)
    whole = float(aggregate(values)) if aggregate else float(np.mean(values))
    if numbers and np.isclose(whole, np.mean(values), equal_nan=True):
        rows = np.stack([np.asarray(values, float), np.ones(len(values))], axis=1)
        return bootstrap.scores(rows, lambda s: {"mean": s[:, 0] / s[:, 1]})["mean"]
    drawn = []
    for counts in np.concatenate(list(bootstrap.draws(len(values), DRAWS, 0))).astype(int):
        chosen = [values[i] for i in np.repeat(np.arange(len(values)), counts)]
        drawn.append(float(aggregate(chosen)))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    return bootstrap.Score(whole, low, high, len(values))


def _confidence(samples: Sequence[Mapping[str, Any]]) -> list[tuple[float, bool]]:
    """(probability of the likeliest choice among the choices, whether it is right)."""
    pairs = []
    for sample in samples:
        if "acc" not in sample:
            return []
        scores = np.asarray([float(answer[0]) for answer in sample["filtered_resps"]])
        shares = np.exp(scores - scores.max())
        pairs.append((float(shares.max() / shares.sum()), bool(sample["acc"])))
    return pairs


def _records(scores: Sequence[TaskScore], step: int, suffix: str = "") -> list[Record]:
    """A record for each task, its name with `suffix`; what is not finite has no number."""
    records: dict[str, Record] = {}
    for each in scores:
        name = each.task if each.examples == "all" else f"{each.task}/{each.examples}"
        record = records.setdefault(
            name, {"step": step, "split": f"eval/{name}{suffix}", "n": each.score.n}
        )
        values = {"": each.score.value, "_low": each.score.low, "_high": each.score.high}
        for end, value in values.items():
            record[each.metric.replace(" ", "_") + end] = value if np.isfinite(value) else None
    return list(records.values())


def _write(
    output: str, title: str, scores: Sequence[TaskScore], results: Mapping[str, Any]
) -> None:
    folder = make_directory(path(output) / title)
    text = json.dumps(_records(scores, results["step"]), indent=1, ensure_ascii=False)
    atomic_write_text(folder / "scores.json", text + "\n")
    for task, samples in results["samples"].items():
        lines = [json.dumps(each, ensure_ascii=False, default=str) for each in samples]
        atomic_write_text(folder / f"samples_{task}.jsonl", "\n".join(lines) + "\n")
