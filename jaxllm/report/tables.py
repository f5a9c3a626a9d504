"""What the report says in numbers and words: summary, evaluations, samples, settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.core.display import duration, short
from jaxllm.report.run import Run
from jaxllm.train.forgetting import rows as losses_before_and_after

NONE = "–"
SAMPLE_STEPS = 8  # of each prompt and run: the first, the last and some between
LOWER_IS_BETTER = (
    "bits_per_byte", "robustness", "fairness", "bias", "toxicity", "flops_per_token",
)
LOWER_WORDS = {"loss", "perplexity", "ppl", "ece", "brier", "ter", "wer"}  # in a measure's name
COUNT_WORDS = {
    "n", "documents", "questions", "words", "completions", "length", "stride", "batches",
}
NEUTRAL_WORDS = COUNT_WORDS | {"bias", "stereotype", "difference"}  # these are best in the middle


@dataclass(frozen=True)
class Row:
    """A line of a table: its label, a value per run, and the change where there are two runs."""

    label: str
    values: list[str]
    change: str = ""
    better: bool | None = None
    begins: str = ""  # the group that this row is the first of


@dataclass(frozen=True)
class Sample:
    """What a run wrote at a step after a prompt."""

    step: int
    text: str


def facts(run: Run) -> list[str]:
    """What the run is, in a few phrases from its config."""
    model, phrases = run.setting, []
    if model("model.family"):
        size = f"{model('model.layers')} layers × {model('model.width')}"
        count = f", {short(run.parameters)} parameters" if run.parameters else ""
        phrases.append(f"{model('model.family')}, {size}{count}")
    if model("data.sequence_length"):
        batch = f"{model('data.global_batch_size')} × {model('data.sequence_length')} tokens"
        phrases.append(f"{model('data.objective')}, batch {batch}")
    sources = [source.get("path") or name for name, source in model("data.mixture", {}).items()]
    if sources:
        phrases.append("data " + ", ".join(sources))
    if model("train.init_from"):
        phrases.append(f"continued from {model('train.init_from')}")
    if run.devices:
        phrases.append(run.devices)
    return phrases


def progress(run: Run) -> str:
    """How far the run is, such as "2,000 steps" or "step 400 of 2,000"."""
    steps, _ = run.column("train", "tokens")
    total = run.setting("train.steps")
    if not len(steps):
        return "no training record yet"
    done = int(steps[-1])
    return f"step {done:,} of {total:,}" if total and done < total else f"{done:,} steps"


def summary(runs: Sequence[Run]) -> list[Row]:
    """The final numbers, a row each that one of the runs has."""
    rows = [
        Row("training loss", _numbers([_recent(run, "loss") for run in runs])),
        *_validations(runs),
        _row(runs, "tokens trained on", lambda run: _short(run.last("train", "tokens"))),
        _row(runs, "tokens per second", lambda run: _short(_median(run, "tokens_per_second"))),
        _row(runs, "step time", lambda run: _milliseconds(_median(run, "step_seconds"))),
        _row(runs, "MFU", lambda run: _percent(_median(run, "mfu"))),
        _row(runs, "peak memory", lambda run: _memory(run.last("train", "peak_memory_bytes"))),
        _row(runs, "time", lambda run: _time(sum(run.seconds().values()))),
    ]
    return [row for row in rows if set(row.values) != {NONE}]


@dataclass(frozen=True)
class Forgetting:
    """A set's loss before and after a run, and how it went between."""

    run: str
    data: str
    base: str
    tuned: str
    change: str
    worse: bool


def forgetting(runs: Sequence[Run]) -> list[Forgetting]:
    """The losses of every run that was measured before its first step too."""
    return [
        Forgetting(
            run.name, name, f"{base:.4f}", f"{tuned:.4f}", f"{change:+.4f}".replace("-", "−"),
            change > 0,
        )
        for run in runs
        for name, base, tuned, change in losses_before_and_after(
            [record for records in run.splits.values() for record in records]
        )
    ]


def evaluations(runs: Sequence[Run]) -> list[Row]:
    """Every number of every `eval/<dataset>` at its last step; two runs get their difference."""
    splits = sorted({split for run in runs for split in run.splits if split.startswith("eval/")})
    rows = []
    for split in splits:
        names = dict.fromkeys(
            name for run in runs for record in run.splits.get(split, [])
            for name, value in record.items() if isinstance(value, (int, float))
        )
        begins = split.removeprefix("eval/")
        for name in names:
            if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in names:
                continue  # it stands with its score
            values = [run.last(split, name) for run in runs]
            # how it was measured is worth a row only where the runs differ in it
            setting = name in ("sequence_length", "batches")
            if name not in ("step", "process", "tokens", "bytes") and not (
                setting and len(set(values)) == 1
            ):
                row = _compared(name, values, begins)
                shown = [
                    value + _interval(run, split, name)
                    for value, run in zip(row.values, runs, strict=True)
                ]
                rows.append(dataclasses.replace(row, values=shown))
                begins = ""
    return rows


def _interval(run: Run, split: str, name: str) -> str:
    low, high = (run.last(split, f"{name}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"


def samples(runs: Sequence[Run]) -> dict[str, dict[str, list[Sample]]]:
    """Samples by prompt, then by run; the newest last, the prompt taken off the text."""
    result: dict[str, dict[str, list[Sample]]] = {}
    for run in runs:
        for record in run.splits.get("samples", []):
            prompt = record["prompt"]
            text = record["text"].removeprefix(prompt)
            of_run = result.setdefault(prompt, {}).setdefault(run.name, [])
            of_run.append(Sample(record["step"], text))
    return {
        prompt: {name: _spread(found) for name, found in by_run.items()}
        for prompt, by_run in result.items()
    }


def differences(runs: Sequence[Run]) -> list[Row]:
    """Every setting that a run changed from its default, with the value in each run."""
    names = dict.fromkeys(name for run in runs for name in run.difference)
    return [_row(runs, name, lambda run, name=name: _setting(run, name)) for name in names]


def versions(runs: Sequence[Run]) -> list[Row]:
    """The versions and devices of each run."""
    names = dict.fromkeys(name for run in runs for name in run.versions)
    rows = [_row(runs, name, lambda run, name=name: run.versions.get(name, NONE)) for name in names]
    return [*rows, _row(runs, "devices", lambda run: run.devices or NONE)]


def _row(runs: Sequence[Run], label: str, value: Callable[[Run], str]) -> Row:
    return Row(label, [value(run) for run in runs])


def _compared(name: str, values: list[float | None], begins: str) -> Row:
    counts = not _words(name).isdisjoint(COUNT_WORDS)
    decimals = 0 if counts else _decimals(values)
    label, shown = name.replace("_", " "), _numbers(values, decimals)
    if len(values) != 2 or None in values:
        return Row(label, shown, begins=begins)
    before, after = values
    change = f"{after - before:+,.{decimals}f}"
    if not change.strip("+-0."):  # nothing that is shown has changed
        return Row(label, shown, "0", begins=begins)
    if before:
        change += f" ({(after - before) / abs(before):+.1%})".replace("%", " %")
    change = change.replace("-", "−")
    upwards = higher_is_better(name)
    better = None if upwards is None else (after > before) == upwards
    return Row(label, shown, change, better, begins)


def higher_is_better(name: str) -> bool | None:
    """Whether more of a measure is better; None where that is not so of all its values."""
    if name in LOWER_IS_BETTER or _words(name) & LOWER_WORDS:
        return False
    return None if _words(name) & NEUTRAL_WORDS else True


def _words(name: str) -> set[str]:
    return set(name.split("_"))


def _spread(found: list[Sample]) -> list[Sample]:
    if len(found) <= SAMPLE_STEPS:
        return found
    places = np.linspace(0, len(found) - 1, SAMPLE_STEPS).round().astype(int)
    return [found[place] for place in places]


def _setting(run: Run, name: str) -> str:
    value = run.difference.get(name, run.setting(name))
    if isinstance(value, str):
        return value or '""'
    return NONE if value is None else json.dumps(value, ensure_ascii=False)


def _recent(run: Run, name: str) -> float | None:
    """The mean of the newest values: 2 % of them, at least 5, or all there are."""
    values = run.column("train", name)[1]
    return float(values[-max(5, len(values) // 50):].mean()) if len(values) else None


def _median(run: Run, name: str) -> float | None:
    values = run.column("train", name)[1]
    return float(np.median(values)) if len(values) else None


def _validations(runs: Sequence[Run]) -> list[Row]:
    rows = []
    for split in dict.fromkeys(split for run in runs for split in run.validations()):
        for name in ("loss", "perplexity", "bits_per_byte"):
            values = [run.last(split, name) for run in runs]
            rows.append(Row(f"{split} {name.replace('_', ' ')}", _numbers(values)))
        lowest = [min(run.column(split, "loss")[1], default=None) for run in runs]
        rows.append(Row(f"{split} loss at best", _numbers(lowest)))
    return rows


def _numbers(values: Sequence[float | None], decimals: int | None = None) -> list[str]:
    """The numbers of one row, all with as many decimals as the largest needs."""
    decimals = _decimals(values) if decimals is None else decimals
    return [NONE if value is None else f"{value:,.{decimals}f}" for value in values]


def _decimals(values: Sequence[float | None]) -> int:
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 4 if largest < 20 else 2 if largest < 10_000 else 0


def _short(value: float | None) -> str:
    return NONE if value is None else short(value)


def _milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}".replace("%", " %")


def _memory(value: float | None) -> str:
    return NONE if value is None else f"{value / 2**30:.2f} GiB"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else NONE
