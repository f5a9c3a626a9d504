"""The rows of all sources of a mixture as examples, split into those to train on and the others."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig, SourceConfig, path_field
from jaxllm.data.perturb import changes_rows, perturb
from jaxllm.data.perturb import check as check_perturb
from jaxllm.data.rows.columns import Columns
from jaxllm.data.rows.examples import Collector, Examples
from jaxllm.data.rows.formats import (
    FORMATS,
    Item,
    Labelled,
    Tagged,
    check_format,
    key_of,
    recognise,
)
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.read import read_rows
from jaxllm.data.rows.row import BadRow, Row

if TYPE_CHECKING:
    from jaxllm.data.objectives.rows import Placed, RowObjective

CHUNK = 1024  # rows that are tokenised at a time
SHOWN = 3  # rows that an error quotes


class RowSource(NamedTuple):
    """The examples of a source."""

    train: Examples
    validation: Examples
    remarks: tuple[str, ...]  # what a user should know of them


class Opened(NamedTuple):
    """The rows of a mixture."""

    sources: dict[str, RowSource]
    labels: tuple[str, ...]  # by their ids; () where the objective has none


def open_rows(config: DataConfig, names: Iterable[str], objective: RowObjective) -> Opened:
    """Reads and tokenises the sources with these names.

    Raises:
      UserError: nothing there, rows that cannot be used, or examples longer than a row.
    """
    labels = Labels(config.labels)
    readers = [_Source(name, config, objective, labels) for name in names]
    for reader in readers:
        reader.read()
    for reader in readers:  # now that every label of the training rows is known
        reader.read_validation()
    order, ids = labels.order()
    sources = {}
    for reader in readers:
        train, validation = reader.train.done(), reader.validation.done()
        if objective.LABELS:
            train, validation = (
                part.replaced(objective.LABELS, ids[part.values(objective.LABELS)])
                if len(part) else part for part in (train, validation)
            )
        sources[reader.name] = RowSource(train, validation, tuple(reader.remarks))
    return Opened(sources, order if objective.LABELS else ())


class _Source:
    """One source while it is read."""

    def __init__(self, name: str, config: DataConfig, objective: RowObjective, labels: Labels):
        self.name, self._source = name, config.mixture[name]
        self._field = f"data.mixture.{name}"
        self._path_field = path_field(name, self._source)
        _check(self._source, self._field, objective)
        _check_perturb(self._source, self._field)
        self._columns = Columns(self._source.columns, f"{self._field}.columns")
        self._truncate, self._objective, self._labels = config.truncate, objective, labels
        self.train, self.validation = Collector(), Collector()
        self.remarks: list[str] = []
        self._held: list[Placed] = []
        # of a chunk's rows by place: the number in the source, the format and the columns
        self._rows: dict[str, tuple[int, str, Mapping[str, Any]]] = {}
        self._problems: list[BadRow] = []
        self._bad = self._long = self._lost = self._longest = 0
        self._longest_place = ""

    def read(self) -> None:
        """The rows to train on; those held out wait."""
        trained = 0
        chunks = _chunks(self._items(self._source.path, self._path_field))
        for number, chunk in enumerate(chunks):
            used = self._split(chunk, whole=number == 0 and len(chunk) < CHUNK)
            used = [self._perturbed(*placed) for placed in used]
            self._rows.clear()
            trained += len(used)
            self._encode(used, self.train)
        self._refuse(self._source.path)
        if not trained:
            raise UserError(
                f"{self._path_field}={self._source.path!r} holds no row to train on"
                + (f": all are held out. Lower {self._field}.validation_share." if self._held
                   else ". Name other data.")
            )
        self._remark(trained, "trained on")

    def read_validation(self) -> None:
        """The rows held out, or those of the file that is named for it."""
        name, count = self._source.validation, 0
        items = self._items(name, f"{self._field}.validation") if name else self._held
        for chunk in _chunks(items):
            count += len(chunk)
            self._rows.clear()  # these are not perturbed
            self._encode(chunk, self.validation)
        self._refuse(name or self._source.path)
        if name and not count:
            raise UserError(f"{self._field}.validation={name!r} holds no row.")
        self._held = []
        self._remark(count, "validated on")

    def _items(self, name: str, field: str) -> Iterator[Placed]:
        """What the rows of a path say; those that say nothing usable become problems."""
        for number, row in enumerate(read_rows(name, self._source, field)):
            try:
                if isinstance(row, BadRow):
                    raise row
                fields = self._columns.fields(row)
                kind = self._source.format or recognise(
                    fields, row.place, self._objective.FORMATS, self._field
                )
                missing = [c for c in FORMATS[kind].columns if c not in fields]
                if missing:
                    raise BadRow(row.place, f"the field {missing[0]!r} is missing")
                item = FORMATS[kind].item(fields, row.place)
                if self._source.perturb:
                    self._rows[row.place] = number, kind, row.columns
                yield item, row.place
            except BadRow as error:
                self._problem(error)

    def _split(self, chunk: list[Placed], whole: bool) -> list[Placed]:
        """The rows of a chunk to train on: all but a share, chosen by a hash of what they say.

        The first row with a label is always trained on; of few rows one is held out all the same.
        """
        share = 0.0 if self._source.validation else self._source.validation_share
        trained, free = [], []
        for placed in chunk:
            labels = _labels_of(placed[0])
            if not self._labels.known(labels):
                self._labels.learn(labels)
                trained.append(placed)
            elif _fraction(placed[0]) < share:
                self._held.append(placed)
            else:
                free.append(placed)
                trained.append(placed)
        if whole and share and not self._held and free and len(trained) > 1:
            least = min(free, key=lambda placed: _fraction(placed[0]))
            self._held.append(least)
            trained.remove(least)
        return trained

    def _perturbed(self, item: Item, place: str) -> Placed:
        """A row to train on, of a share of the rows as the source's perturbations leave it.

        Which rows, and what becomes of them, depends on what they say and on their number in the
        source, not on where its files lie. Options are shuffled before a template writes them; a
        row of which nothing is left stays as it is.
        """
        source = self._source
        if not source.perturb:
            return item, place
        (number, kind, columns), strength = self._rows[place], source.perturb_strength
        digest = hashlib.blake2b(key_of(item), digest_size=8).digest()
        rng = np.random.default_rng((number, int.from_bytes(digest, "little")))
        if rng.random() >= source.perturb_share:
            return item, place
        of_rows = [name for name in source.perturb if changes_rows(name)]
        of_texts = [name for name in source.perturb if name not in of_rows]
        try:
            fields = self._columns.fields(Row(place, perturb(of_rows, strength, columns, rng)))
            return FORMATS[kind].item(perturb(of_texts, strength, fields, rng), place), place
        except BadRow:
            return item, place

    def _encode(self, placed: list[Placed], into: Collector) -> None:
        try:
            encoded = self._objective.encode(placed, self._labels)
        except UserError:
            for one in placed:  # which of them it is
                try:
                    self._objective.encode([one], self._labels)
                except UserError as error:
                    raise UserError(f"{self._field}: {one[1]}: {error}") from error
            raise
        examples, sizes = [], []
        for (_, place), example in zip(placed, encoded, strict=True):
            if isinstance(example, BadRow):
                self._problem(example)
                continue
            size = self._objective.size(example)
            if size > self._objective.sequence_length:
                self._long += 1
                if size > self._longest:
                    self._longest, self._longest_place = size, place
                example = self._objective.cut(example) if self._truncate else None
                if example is None:
                    self._lost += 1
                    continue
                size = self._objective.sequence_length
            examples.append(example)
            sizes.append(size)
        into.add(examples, sizes)

    def _problem(self, error: BadRow) -> None:
        self._bad += 1
        known = any(error.reason == other.reason for other in self._problems)
        if len(self._problems) < SHOWN and not known:
            self._problems.append(error)

    def _refuse(self, name: str) -> None:
        """Raises for what was wrong with the rows."""
        if self._bad:
            rows = "1 row" if self._bad == 1 else f"{self._bad:,} rows"
            left = self._bad - len(self._problems)
            more = f" ({left:,} more)" if left else ""
            shown = " | ".join(str(error).rstrip(".") for error in self._problems)
            raise UserError(
                f"{self._field}: {rows} of {name} cannot be used. {shown}{more}. Mend them, or "
                "take them out."
            )
        if self._long and not self._truncate:
            length = self._objective.sequence_length
            raise UserError(
                f"{self._field}: {self._long:,} examples are longer than a row of data."
                f"sequence_length={length:,} ({self._lengths_hint()}; the longest is "
                f"{self._longest_place}, which needs {self._longest:,}). Set data.sequence_length="
                f"{self._longest}, or data.truncate=True to cut them, or take them out."
            )

    def _lengths_hint(self) -> str:
        target = self._objective.lengths[0] if self._objective.lengths[1] else 0
        return f"with targets of {target:,}" if target else "tokens of each"

    def _remark(self, count: int, what: str) -> None:
        if self._long:
            length = self._objective.sequence_length
            lost = f" ({self._lost:,} of them left out: no target was left)"
            self.remarks.append(
                f"{self.name}: {self._long:,} of {count:,} rows {what} were cut to {length:,} "
                f"tokens{lost if self._lost else ''}; the longest has {self._longest:,} "
                f"({self._longest_place})"
            )
        self._long = self._lost = self._longest = 0


def _check(source: SourceConfig, field: str, objective: RowObjective) -> None:
    if source.format:
        check_format(source.format, objective.FORMATS, f"{field}.format")
    if not 0 <= source.validation_share < 1:
        raise UserError(
            f"{field}.validation_share={source.validation_share} must be at least 0 and below 1."
        )


def _check_perturb(source: SourceConfig, field: str) -> None:
    usual = SourceConfig()
    for name in ("perturb_share", "perturb_strength"):
        value = getattr(source, name)
        if not 0 <= value <= 1:
            raise UserError(f"{field}.{name}={value} must be a share, from 0 to 1.")
        if not source.perturb and value != getattr(usual, name):
            raise UserError(f"{field}.{name}={value} has no effect: {field}.perturb is empty.")
    check_perturb(source.perturb, source.perturb_strength, f"{field}.perturb")


def _labels_of(item: Item) -> tuple[str | int, ...]:
    if isinstance(item, Labelled):
        return (item.label,)
    return item.tags if isinstance(item, Tagged) else ()


def _fraction(item: Item) -> float:
    """A number in [0, 1) that equal items share."""
    digest = hashlib.blake2b(key_of(item), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _chunks(items: Iterable[Placed]) -> Iterator[list[Placed]]:
    items = iter(items)
    while chunk := list(itertools.islice(items, CHUNK)):
        yield chunk
