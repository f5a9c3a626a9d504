"""Tasks of lm-evaluation-harness whose asked questions are changed; their examples stay clean."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data import perturb
from jaxllm.evals.helm.demographics import swap

SEED = 0


def check(names: Sequence[str], strength: float) -> None:
    """Raises UserError for what cannot change a text."""
    perturb.check(names, strength, "--perturb")
    for name in names:
        if perturb.changes_rows(name):
            raise UserError(
                f"--perturb={name} changes rows, not the text of a question: name others of "
                f"{', '.join(n for n in perturb.names() if not perturb.changes_rows(n))}."
            )
    if not names or not strength:
        raise UserError(
            f"--perturb={','.join(names)} --perturb_strength={strength} changes nothing: name a "
            "perturbation and a strength above 0."
        )


def perturb_questions(task: Any, names: Sequence[str], strength: float) -> None:
    """Makes a task ask with noise (`data/perturb`); the choices that are scored stay as they are.

    Only the example's own texts are changed, not the words around them that the task puts
    ("Question:"), unless none is found. The noise of a text is always the same.
    """

    def noisy(text: str) -> str:
        rng = np.random.default_rng([SEED, zlib.crc32(text.encode())])
        return perturb.perturb_text(names, strength, text, rng)

    if task.multiple_input:
        choices = task.doc_to_choice
        task.doc_to_choice = lambda doc, *rest: [noisy(text) for text in choices(doc, *rest)]
        return
    plain = task.doc_to_text

    def asked(doc: Mapping[str, Any], *rest: Any) -> Any:
        text = plain(doc, *rest)
        if rest or not isinstance(text, str):  # of an example that is shown
            return text
        scored = {str(choice).strip() for choice in task.doc_to_choice(doc)}
        return _within(text, set(_texts(doc)), scored, noisy)

    task.doc_to_text = asked


def swap_demographics(task: Any) -> None:
    """Makes a task ask with the genders of words and names exchanged, in its choices too."""
    question, choices, target = task.doc_to_text, task.doc_to_choice, task.doc_to_target

    def asked(doc: Mapping[str, Any], *rest: Any) -> Any:
        text = question(doc, *rest)
        return text if rest or not isinstance(text, str) else swap(text)

    def offered(doc: Mapping[str, Any], *rest: Any) -> list[str]:
        found = choices(doc, *rest)
        return found if rest else [swap(str(choice)) for choice in found]

    def right(doc: Mapping[str, Any], *rest: Any) -> Any:
        found = target(doc, *rest)
        if rest or not isinstance(found, str):
            return found
        if task.multiple_input:  # what follows each of the questions
            return swap(found)
        clean = choices(doc)
        return clean.index(found) if found in clean else found

    task.doc_to_text, task.doc_to_choice, task.doc_to_target = asked, offered, right


def _texts(value: Any) -> Iterator[str]:
    """Every text of two words or more in an example, also without the mark at its end."""
    if isinstance(value, str):
        text = value.strip()
        if len(text.split()) > 1:
            yield from (text, text.rstrip(".?!"))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def _within(
    text: str, own: Collection[str], kept: Collection[str], change: Callable[[str], str]
) -> str:
    """`text` with `change` where it has one of `own`, the longest first, but none of `kept`."""
    found = sorted((each for each in own if each in text and each not in kept), key=len)
    if not found:
        return change(text)
    pattern = "|".join(re.escape(each) for each in found[::-1])
    return re.sub(pattern, lambda match: change(match[0]), text)
