"""Sequence-level distillation: a teacher answers prompts, and a student trains on the answers.

Rows of `prompt` and `completion`, which fine-tuning reads like any others (Kim and Rush 2016).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, path
from jaxllm.generate.model import LoadedModel
from jaxllm.generate.steps import ChatText


@dataclass
class Counts:
    """What became of the prompts."""

    written: int = 0
    unfinished: int = 0  # answers that ran out of tokens, left out unless asked for
    empty: int = 0  # answers of nothing, left out

    def words(self) -> str:
        """In words."""
        return (
            f"{self.written:,} rows; left out: {self.unfinished:,} unfinished, "
            f"{self.empty:,} empty"
        )


@dataclass(frozen=True)
class Answering:
    """How a teacher answers; `drawing` is what `LoadedModel.generate` takes."""

    batch: int = 8  # prompts at a time
    keep_unfinished: bool = False
    seed: int = 0
    drawing: Mapping[str, Any] = field(default_factory=dict)


def write_answers(
    teacher: LoadedModel, prompts: str, output: str, how: Answering, display: Display
) -> Counts:
    """Answers the rows of a JSONL file into another; what is written already is not done again.

    A row has `prompt`, a text or a list of messages, or `messages`, of which those up to the last
    of the user are the prompt. Its other columns are kept.

    Raises:
      UserError: a row without a prompt, the output is of other prompts, or what
        `LoadedModel.generate` refuses.
    """
    rows, counts = list(read_prompts(prompts)), Counts()
    done, part = _resumed(output, rows, counts)
    display.start("answering", len(rows), done)
    for start in range(done, len(rows), how.batch):
        batch = rows[start : start + how.batch]
        texts = [prompt_text(teacher, row, f"{prompts}, row {start + i + 1}")
                 for i, row in enumerate(batch)]
        answers = teacher.generate(texts, seed=(how.seed + start) % 2**32, **how.drawing)
        for row, answer in zip(batch, answers, strict=True):
            part.append(_row(row, answer, how, counts))
        display.update(start + len(batch), {"rows": counts.written})
        if (start - done) // how.batch % KEPT_EVERY == 0:
            _write(output + PART, part)
    _write(output, [row for row in part if row])
    path(output + PART).unlink(missing_ok=True)
    return counts


KEPT_EVERY = 32  # batches, so that what is written again and again stays a small part of the work
PART = ".part"  # of a file that is being written: a line for each prompt, null where it is left out


def read_prompts(file: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file.

    Raises:
      UserError: there is no such file, or a line is no object with a prompt.
    """
    source = path(file)
    if not source.exists():
        raise UserError(f"--prompts={file}: there is no such file.")
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"--prompts={file}, line {number} is no JSON ({error}).") from error
        if not isinstance(row, dict) or not (row.get("prompt") or row.get("messages")):
            raise UserError(
                f"--prompts={file}, line {number} has neither `prompt` nor `messages`: write "
                '{"prompt": "…"}.'
            )
        yield row


def prompt_text(teacher: LoadedModel, row: Mapping[str, Any], where: str) -> str:
    """The text that the teacher goes on from; messages through its chat template.

    Raises:
      UserError: there is no message of the user, or the template refuses the messages.
    """
    prompt = row.get("prompt") or row["messages"]
    if isinstance(prompt, str):
        return prompt
    last = max((i for i, m in enumerate(prompt) if m.get("role") == "user"), default=-1)
    if last < 0:
        raise UserError(f"{where}: `messages` has none of the user to answer.")
    return ChatText(teacher.tokenizer.apply_chat_template(
        prompt[: last + 1], add_generation_prompt=True
    ))


def _row(row: dict, answer, how: Answering, counts: Counts) -> dict | None:
    text = answer.text
    if answer.finish_reason != "stop" and not how.keep_unfinished:
        counts.unfinished += 1
        return None
    if not text.strip():
        counts.empty += 1
        return None
    counts.written += 1
    kept = {name: value for name, value in row.items() if name not in ("messages", "completion")}
    if isinstance(row.get("prompt"), str):
        return {**kept, "completion": text}
    prompt = row.get("prompt") or row["messages"]
    last = max(i for i, m in enumerate(prompt) if m.get("role") == "user")
    answered = [*prompt[: last + 1], {"role": "assistant", "content": text}]
    kept.pop("prompt", None)
    return {**kept, "messages": answered}


def _resumed(output: str, rows: list[dict], counts: Counts) -> tuple[int, list[dict | None]]:
    """How many prompts are answered already, and their rows."""
    if path(output).exists():
        raise UserError(f"--output={output} exists: remove it, or choose another file.")
    file = path(output + PART)
    if not file.exists():
        return 0, []
    part = [json.loads(line) for line in file.read_text().splitlines()]
    if len(part) > len(rows):
        raise UserError(
            f"{file} has answers to {len(part)} prompts and there are {len(rows)}: it is of "
            "others. Remove it, or choose another --output."
        )
    counts.written = sum(row is not None for row in part)
    return len(part), part


def _write(file: str, rows: Iterable[dict | None]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    atomic_write_text(file, "".join(line + "\n" for line in lines))
