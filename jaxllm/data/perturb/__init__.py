"""Adversarial data: text changed as people and machines change it, its meaning mostly kept.

A perturbation is a file of this folder with a function `perturb(text, strength, rng)`, or
`perturb_row(row, strength, rng)` where the whole row decides, found by the file's name. It is pure:
all randomness comes from the generator, so that a row's noise is a function of (seed, index).
`strength` is the share of characters, words or rows that it touches. It never imports jax.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.core.errors import UserError, unknown
from jaxllm.data.rows.messages import ROLES

# What of a row is read by the model and not answered: only this is changed.
READ = ("text", "source", "prompt", "question", "context", "instruction", "input")
ASKING = ("user", "tool")  # roles of messages
CONVERSATIONS = ("prompt", "messages", "conversations")  # fields of messages


def names() -> list[str]:
    """The names of all perturbations."""
    found = pkgutil.iter_modules(__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def check(chosen: Sequence[str], strength: float, field: str = "perturb") -> None:
    """Refuses unknown names and a strength that is no share.

    Raises:
      UserError: naming `field`, as the user set it.
    """
    for name in chosen:
        if name not in names():
            raise unknown(field, name, names())
    if not 0 <= strength <= 1:
        raise UserError(f"{field}: strength={strength} must be a share, from 0 to 1.")


def changes_rows(name: str) -> bool:
    """Whether a perturbation is of the whole row, before a template makes text of its columns."""
    return hasattr(_module(name), "perturb_row")


def perturb_text(
    chosen: Sequence[str], strength: float, text: str, rng: np.random.Generator
) -> str:
    """The text after the perturbations of these names, one after the other.

    Those that need a whole row leave it as it is. With strength 0 the text is unchanged.

    Raises:
      UserError: an unknown name, or a strength that is no share.
    """
    check(chosen, strength)
    for name in chosen if strength else ():
        if change := getattr(_module(name), "perturb", None):
            text = change(text, strength, rng)
    return text


def perturb(
    chosen: Sequence[str], strength: float, row: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """The row after the perturbations of these names; what is to be answered stays as it is.

    Changed are the fields READ, words of `tokens` (each stays one word, so that `tags` keep their
    places), and messages of ASKING, ShareGPT's too. A `text` that is itself trained on is changed
    as well: keep a clean copy in `completion` or `target` to train on.

    Raises:
      UserError: an unknown name, or a strength that is no share.
    """
    check(chosen, strength)
    row = dict(row)
    for name in chosen if strength else ():
        if changes_rows(name):
            row = _module(name).perturb_row(row, strength, rng)
        else:
            row = _each_text(_module(name).perturb, row, strength, rng)
    return row


def _each_text(change, row: dict[str, Any], strength: float, rng) -> dict[str, Any]:
    row = {
        name: change(value, strength, rng) if name in READ and isinstance(value, str) else value
        for name, value in row.items()
    }
    for name in CONVERSATIONS:
        if isinstance(row.get(name), (list, tuple)):
            row[name] = [_message(change, m, strength, rng) for m in row[name]]
    if isinstance(row.get("tokens"), (list, tuple)):
        row["tokens"] = [_word(change, word, strength, rng) for word in row["tokens"]]
    return row


def _message(change, message: Any, strength: float, rng) -> Any:
    if not isinstance(message, Mapping):
        return message
    who = message.get("from", message.get("role"))  # ShareGPT's name comes first, as it is read
    name = "value" if "value" in message else "content"
    content = message.get(name)
    if not isinstance(content, str) or ROLES.get(who, who) not in ASKING:
        return message
    return {**message, name: change(content, strength, rng)}


def _word(change, word: Any, strength: float, rng) -> Any:
    changed = change(word, strength, rng) if isinstance(word, str) else word
    if not isinstance(changed, str) or len(changed.split()) != 1:
        return word  # a tag is of one word: it may be neither dropped nor cut
    return changed


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
