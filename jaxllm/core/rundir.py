"""The run directory: where a run keeps its config, metrics, checkpoints, tokenizer and report."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from jaxllm.core.board import Board
from jaxllm.core.errors import UserError
from jaxllm.core.lines import Lines, append
from jaxllm.core.paths import atomic_write_text, in_bucket, make_directory, path

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
        """Creates the directory and proves that it can be written.

        Raises:
          UserError: it cannot, or it holds a model from elsewhere, whose config.json a run would
            overwrite, or prepared data, whose tokenizer it would replace.
        """
        if self.is_foreign():
            raise UserError(
                f"--workdir={self.root} holds a model that is no run of ours: its config.json, "
                "which a run there would overwrite, has no section `config`. Name another folder "
                f"for the run, such as --workdir=runs/{self.root.name}, and this one in "
                "train.init_from to start from its parameters."
            )
        if (self.root / "manifest.json").exists():
            raise UserError(
                f"--workdir={self.root} is a folder of prepared data (it has a manifest.json): a "
                "run there would replace its tokenizer. Name another folder for the run, such as "
                f"--workdir=runs/{self.root.name}."
            )
        make_directory(self.root)
        probe = self.root / ".writable"
        atomic_write_text(probe, "")
        probe.unlink()

    def exists(self) -> bool:
        """Whether there is a run, or the beginning of one."""
        return self.config.exists() or self.checkpoints.exists()

    def is_foreign(self) -> bool:
        """Whether its config.json is another program's, as that of a Hugging Face folder is."""
        try:
            content = json.loads(self.config.read_text())
        except (OSError, ValueError):  # none, or a damaged one, which may be ours
            return False
        return isinstance(content, dict) and bool(content) and "config" not in content

    def remove_empty(self) -> None:
        """Takes away what was made for a run that then could not begin, as far as it is empty."""
        if in_bucket(self.root):  # where no folder is empty
            return
        for folder in (self.checkpoints, self.root):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def read_config(self) -> Record:
        """The content of `config.json`.

        Raises:
          UserError: this is no run directory, or its config.json is damaged.
        """
        if not self.config.exists():
            raise UserError(
                f"{self.root} is no run directory: it has no config.json. "
                "Name the --workdir of a finished or running `jaxllm train`."
            )
        try:
            content = json.loads(self.config.read_text())
        except ValueError as error:
            raise self._damaged(f"it is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise self._damaged("it holds no object with fields")
        if self.is_foreign():
            theirs = "model_type" in content
            raise UserError(
                f"{self.root} is no run directory: its config.json is "
                f"{'that of a Hugging Face folder' if theirs else 'of another program'} and has "
                "no section `config`. Name the --workdir of a `jaxllm train`"
                + (", or make a run of it with `jaxllm convert`." if theirs else ".")
            )
        return content

    def read_section(self, name: str) -> Record:
        """The section `name` of the resolved config of the run.

        Raises:
          UserError: as `read_config`; also a config without that section.
        """
        config = self.read_config().get("config")
        section = config.get(name) if isinstance(config, dict) else None
        if not isinstance(section, dict):
            raise self._damaged(f"it has no section config.{name}")
        return section

    def _damaged(self, why: str) -> UserError:
        return UserError(
            f"{self.config} is damaged: {why}. Copy it again; for a run that is not finished, "
            "repeat its `jaxllm train` command, which writes the file anew."
        )


class MetricsWriter:
    """Appends records to `metrics.jsonl`, a line each, and mirrors the numbers to TensorBoard.

    A run that resumes at `resume_step` first drops the records of later steps: they will be
    written again, and equal, by the replayed steps. Of several hosts only the first writes.
    """

    def __init__(
        self, run: RunDirectory, resume_step: int, warn: Callable[[str], None], *,
        writes: bool = True,
    ):
        """`warn` is told of a mirror that cannot be written, and of a bucket that is away."""
        self.process, self._writes, self._warn = 0, writes, warn
        if not writes:
            return
        records = [r for r in read_metrics(run.metrics) if r["step"] <= resume_step]
        atomic_write_text(run.metrics, "".join(_line(record) for record in records))
        self.process = 1 + max((r.get("process", -1) for r in records), default=-1)
        self._lines = Lines(run.metrics)
        self._board = Board(run.tensorboard, resume_step, warn)

    def write(self, record: Record) -> None:
        """Appends one record, see `Lines.add`."""
        if not self._writes:
            return
        self._lines.add(_line(record))
        split, step = record["split"], record["step"]
        numbers = {
            f"{split}/{name}": value for name, value in record.items()
            if isinstance(value, (int, float)) and name not in ("step", "process")
        }
        text = record.get("text")
        texts = {record.get("prompt", "text"): text} if isinstance(text, str) else {}
        self._board.write(step, numbers, texts)

    def flush(self) -> None:
        """Waits until every record is safe, see `Lines.flush`, or warns that it is not."""
        if not self._writes:
            return
        try:
            self._lines.flush()
        except UserError as error:  # a bucket that is away for a while ends no run
            self._warn(f"{error} The records wait for the next checkpoint.")

    def close(self) -> None:
        """Closes both files."""
        if not self._writes:
            return
        with contextlib.closing(self._board):
            try:
                self._lines.close()
            except UserError as error:
                raise UserError(
                    f"{error} The checkpoints are saved; the newest records are not."
                ) from error


def read_metrics(file) -> list[Record]:
    """The records of a `metrics.jsonl`, in the order they were written.

    Of several records of the same measurement (step and split; also the process of a time and the
    prompt of a sample) the newest counts. What is no record is left out, as a line torn by a crash.

    Raises:
      UserError: the file cannot be read.
    """
    file = path(file)
    if not file.exists():
        return []
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    records: dict[tuple, Record] = {}
    for line in lines:
        try:
            record = json.loads(line)
            key = _measurement(record)
        except (ValueError, TypeError, KeyError):
            continue
        records.pop(key, None)  # the newest stands at its own place
        records[key] = record
    return list(records.values())


def append_records(run: RunDirectory, records: list[Record], *, writes: bool = True) -> None:
    """Adds `records` to `metrics.jsonl`, which a trainer may be writing at the same time.

    Of several hosts only the first `writes`.

    Raises:
      UserError: the file cannot be written.
    """
    if not (writes and records):
        return
    append(run.metrics, "".join(_line(record) for record in records).encode())


def _measurement(record: Record) -> tuple:
    process = record.get("process") if record["split"] == "time" else None
    return record["step"], record["split"], process, record.get("prompt")


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
