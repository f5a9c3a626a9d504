"""Passages of a collection of text before the questions of a task of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.evals.harness.ahead import Ahead
from jaxllm.evals.retrieval.passages import Passages


def put_passages(task: Any, passages: Passages, count: int) -> None:
    """Makes a task of lm-eval begin each prompt with the `count` passages likest to its question.

    They come before the description and the examples, the likest first, with an empty line after
    each; in a conversation they are its system message.

    Raises:
      UserError: the task asks no questions.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling" or not hasattr(task, "sampler"):
        raise UserError(
            f"--tasks: {task.task_name} asks no questions for which passages could be looked up: "
            "evaluate it without ' + retrieval'."
        )
    plain = task.fewshot_context
    likest = Ahead(task, partial(_question, task), passages.likest)

    def context(doc: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        found = "".join(f"{text}\n\n" for text in likest(doc, count))
        before = kwargs.pop("system_instruction", None) or ""
        return plain(doc, *args, system_instruction=found + before, **kwargs)

    task.fewshot_context = context


def _question(task: Any, doc: Mapping[str, Any]) -> str:
    """The asked question, without its answer."""
    if task.multiple_input:  # the question differs in each choice
        return " ".join(map(str, task.doc_to_choice(doc)))
    return str(task.doc_to_text(doc))
