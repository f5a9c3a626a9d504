"""Scores of the answers that lm-evaluation-harness collected, with intervals and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.evals import bootstrap
from jaxllm.evals.metrics import ece

DRAWS = 200  # of a metric that is not a mean: each computes lm-eval's own function


def task_scores(
    task, samples: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, bootstrap.Score]]:
    """(metric, score) for every filter, and the calibration of multiple choices."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    for name in filters:
        of_filter = [sample for sample in samples if sample["filter"] == name]
        suffix = "" if name == "none" else f" ({name})"
        for metric in of_filter[0]["metrics"]:
            values = [sample[metric] for sample in of_filter]
            yield metric + suffix, interval(values, task.aggregation().get(metric))
    if task.OUTPUT_TYPE == "multiple_choice":
        calibrated = confidence(samples)
        if calibrated:
            shares, right = zip(*calibrated, strict=True)
            yield "ece", bootstrap.scores(ece.statistics(shares, right), ece.finish)["ece"]


def pooled(tasks: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, bootstrap.Score]]:
    """(metric, score) of a group: the means over the examples of all its tasks, of metrics that
    all of them have and that are means."""
    kinds = [{(s["filter"], m) for s in samples for m in s["metrics"]} for samples in tasks]
    everything = [sample for samples in tasks for sample in samples]
    for name, metric in sorted(set.intersection(*kinds)):
        values = [sample[metric] for sample in everything if sample["filter"] == name]
        if all(isinstance(value, int | float | np.number) for value in values):
            suffix = "" if name == "none" else f" ({name})"
            yield metric + suffix, interval(values, None)


def interval(values: Sequence[Any], aggregate) -> bootstrap.Score:
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
    return bootstrap.Score(whole, low, high, len(values), np.asarray(drawn))


def confidence(samples: Sequence[Mapping[str, Any]]) -> list[tuple[float, bool]]:
    """(probability of the likeliest choice among the choices, whether it is right)."""
    pairs = []
    for sample in samples:
        if "acc" not in sample:
            return []
        scores = np.asarray([float(answer[0]) for answer in sample["filtered_resps"]])
        shares = np.exp(scores - scores.max())
        pairs.append((float(shares.max() / shares.sum()), bool(sample["acc"])))
    return pairs
