"""What a stage of `prepare` is: a pure function of one document's text, its settings given first.

A stage is a file of this package with a frozen dataclass `Settings` and functions

    make(settings: Settings) -> Callable[[View], Kept | Dropped]
    check(settings: Settings) -> None      raises UserError for a setting out of range
    digest(settings: Settings) -> str      of files that the settings name, where they can

and is found by the file's name. The callable is deterministic and keeps no state between
documents, so that any worker may take any document.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxllm.core.config import check_ranges
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.words.tokens import Tokens

LARGE = 2**22  # characters of a text that is not to be held as a list of words
WORD = re.compile(r"\S+")


class View:
    """A document's text, with what several stages ask of it computed once."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.splitlines()

    @cached_property
    def words(self) -> list[str]:
        """What lies between white space."""
        return self.text.split()

    @cached_property
    def tokens(self) -> Tokens:
        """Words and punctuation apart, as the quality rules count them."""
        return Tokens(self._chunks())

    @cached_property
    def word_count(self) -> int:
        """How many `words` there are."""
        return sum(1 for _ in self._chunks()) if len(self.text) > LARGE else len(self.words)

    def _chunks(self) -> Iterable[str]:
        """The words, one at a time when a list of them would take many times the text's memory."""
        if len(self.text) > LARGE:
            return (match[0] for match in WORD.finditer(self.text))
        return self.words

    @cached_property
    def rows(self) -> list[str]:
        """What lies between line feeds: unlike `lines`, other separators do not count."""
        return self.text.split("\n")

    @cached_property
    def lower(self) -> str:
        """The text in lower case."""
        return self.text.lower()


@dataclass(frozen=True, slots=True)
class Kept:
    """The document goes on, with this text."""

    text: str
    changes: Mapping[str, int] = field(default_factory=dict)  # by name: how often, such as email


@dataclass(frozen=True, slots=True)
class Dropped:
    """The document is left out."""

    reason: str  # in snake_case, such as too_few_words


Outcome = Kept | Dropped
Stage = Callable[[View], Outcome]


def check_settings(settings: Any, stage: str, ranges: dict[str, str]) -> None:
    """Refuses numbers outside of their interval, such as {"max_bullet_lines": "[0, 1]"}.

    Raises:
      UserError: naming stage.field, its value, the interval and the default.
    """
    for name, interval in ranges.items():
        try:
            check_ranges(settings, stage, {name: interval})
        except UserError as error:
            default = type(settings).__dataclass_fields__[name].default
            raise UserError(f"{error} The default is --config.{stage}.{name}={default}.") from None


def check_pairs(settings: Any, stage: str, sizes: str, shares: str) -> None:
    """Refuses two fields that belong together, sizes of n-grams and shares, but do not fit.

    Raises:
      UserError: naming the field, its value and what it must be.
    """
    ns, most = getattr(settings, sizes), getattr(settings, shares)
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    fix = f"The default is --config.{stage}.{sizes}={defaults[sizes]} with {defaults[shares]}."
    if len(ns) != len(most):
        raise UserError(
            f"{stage}.{shares}={most} must have one share for each size of "
            f"{stage}.{sizes}={ns}. {fix}"
        )
    if any(n < 1 for n in ns):
        raise UserError(f"{stage}.{sizes}={ns} must be numbers of words, each at least 1. {fix}")
    if not all(0 <= share <= 1 for share in most):
        raise UserError(f"{stage}.{shares}={most} must be shares between 0 and 1. {fix}")
