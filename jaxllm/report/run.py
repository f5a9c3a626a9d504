"""A run as a report sees it: what is in its directory, whatever of it exists so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.core.paths import shortest_names
from jaxllm.core.rundir import Record, RunDirectory, read_metrics

TIMES = ("compile", "data", "step", "checkpoint", "evaluation", "other")


@dataclass(frozen=True)
class Run:
    """The records of one run directory. Every part but the config may be missing."""

    name: str  # short and unique in the report
    path: str
    config: dict[str, Any]
    difference: dict[str, Any]
    versions: dict[str, str]
    devices: str
    parameters: int | None
    splits: dict[str, list[Record]]  # the records of metrics.jsonl by split, in order of step

    def column(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps [N] and values [N] (float64) of the records that have a value of this name."""
        records = self.splits.get(split, [])
        pairs = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        columns = np.array(pairs, np.float64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]

    def last(self, split: str, name: str) -> float | None:
        """The newest value of this name, None where there is none."""
        values = self.column(split, name)[1]
        return float(values[-1]) if len(values) else None

    def validations(self) -> list[str]:
        """The splits measured during training: `validation`, or `validation/<source>` for each."""
        return [name for name in self.splits if name.split("/")[0] == "validation"]

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A field of the resolved config, such as "train.steps"."""
        value: Any = self.config
        for part in dotted.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def seconds(self) -> dict[str, float]:
        """Seconds spent per kind of work, summed over the processes that the run took."""
        newest = {record.get("process", 0): record for record in self.splits.get("time", [])}
        return {
            kind: sum(record.get(f"{kind}_seconds") or 0.0 for record in newest.values())
            for kind in TIMES
        }


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs in these directories; one named twice is read once.

    Raises:
      UserError: a directory is no run directory.
    """
    directories = [RunDirectory(path) for path in dict.fromkeys(paths)]
    names = shortest_names([directory.root for directory in directories])
    runs = [_read(directory, name) for directory, name in zip(directories, names, strict=True)]
    if any("/" in split for run in runs for split in run.validations()):
        for run in runs:
            _name_validation(run)
    return runs


def _name_validation(run: Run) -> None:
    """Names the validation of a run of one source as a run of several would, to compare them."""
    sources = list(run.setting("data.mixture", {}))
    if "validation" in run.splits and len(sources) == 1:
        run.splits[f"validation/{sources[0]}"] = run.splits.pop("validation")


def _read(directory: RunDirectory, name: str) -> Run:
    saved = directory.read_config()  # refuses a folder of another kind
    directory.read_section("model")  # and one whose config is damaged
    splits: dict[str, list[Record]] = {}
    for record in read_metrics(directory.metrics):
        splits.setdefault(record["split"], []).append(record)
    for records in splits.values():
        records.sort(key=lambda record: record["step"])
    return Run(
        name=name,
        path=str(directory.root),
        config=saved.get("config", {}),
        difference=saved.get("difference", {}),
        versions=saved.get("versions", {}),
        devices=saved.get("devices", ""),
        parameters=saved.get("parameters"),
        splits=splits,
    )
