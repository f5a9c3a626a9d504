"""The run directory: where a run keeps its config, metrics, checkpoints, tokenizer and report."""

from __future__ import annotations

import json
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, make_directory, path, unwritable

Record = dict[str, Any]


class RunDirectory:
    """Names of what is inside a run directory (design: config.json, metrics.jsonl, …)."""

    def __init__(self, root: str):
        self.root = path(root)
        self.config = self.root / "config.json"
        self.metrics = self.root / "metrics.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.tokenizer = self.root / "tokenizer"
        self.tensorboard = self.root / "tensorboard"
        self.report = self.root / "report.html"

    def create(self) -> None:
        """Creates the directory and proves that it can be written."""
        make_directory(self.root)
        probe = self.root / ".writable"
        atomic_write_text(probe, "")
        probe.unlink()

    def read_config(self) -> Record:
        """The content of `config.json`.

        Raises:
          UserError: this is no run directory.
        """
        if not self.config.exists():
            raise UserError(
                f"{self.root} is no run directory: it has no config.json. "
                "Name the --workdir of a finished or running `jaxllm train`."
            )
        return json.loads(self.config.read_text())


class MetricsWriter:
    """Appends records to `metrics.jsonl`, a line each, and mirrors the numbers to TensorBoard.

    A run that resumes at `resume_step` first drops the records of later steps: they will be
    written again, and equal, by the replayed steps. Of several hosts only the first writes.
    """

    def __init__(self, run: RunDirectory, resume_step: int, *, writes: bool = True):
        self.process, self._writes = 0, writes
        if not writes:
            return
        from tensorboardX import SummaryWriter  # 0.1 s that `jaxllm eval` need not pay

        records = [r for r in read_metrics(run.metrics) if r["step"] <= resume_step]
        atomic_write_text(run.metrics, "".join(_line(record) for record in records))
        self.process = 1 + max((r.get("process", -1) for r in records), default=-1)
        self._file = run.metrics.open("a")
        self._target = run.metrics
        self._board = SummaryWriter(str(run.tensorboard), purge_step=resume_step + 1)

    def write(self, record: Record) -> None:
        """Appends one record and hands it to the operating system at once."""
        if not self._writes:
            return
        try:
            self._file.write(_line(record))
            self._file.flush()
        except OSError as error:
            raise unwritable(self._target, error) from error
        split, step = record["split"], record["step"]
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("step", "process"):
                self._board.add_scalar(f"{split}/{name}", value, step)
            elif isinstance(value, str) and name == "text":
                self._board.add_text(record.get("prompt", name), value, step)

    def close(self) -> None:
        """Closes both files."""
        if not self._writes:
            return
        self._file.close()
        self._board.close()


def read_metrics(file) -> list[Record]:
    """The records of a `metrics.jsonl`; a last line torn by a crash is left out."""
    file = path(file)
    if not file.exists():
        return []
    records = []
    for line in file.read_bytes().split(b"\n")[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError:
            break  # nothing after a torn line can be trusted to be in order
    return records


def replace_records(run: RunDirectory, records: list[Record]) -> None:
    """Puts `records` into `metrics.jsonl` in place of those with the same step and split."""
    new = {(record["step"], record["split"]) for record in records}
    kept = [r for r in read_metrics(run.metrics) if (r["step"], r["split"]) not in new]
    atomic_write_text(run.metrics, "".join(_line(record) for record in kept + records))


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
