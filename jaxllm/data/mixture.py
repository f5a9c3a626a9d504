"""The endless stream of training examples: sources shuffled, repeated and mixed by weight."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence, Set
from fractions import Fraction

import grain
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.config import DataConfig, ReplayedSource, SourceConfig, path_field
from jaxllm.data.objectives import Objective, RowObjective, trains_on_rows
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.load import RowSource
from jaxllm.data.rows.packing import PackedRows, Packs
from jaxllm.data.rows.read import is_prepared
from jaxllm.data.sources import TokenSource
from jaxllm.data.windows import Windows

Source = TokenSource | RowSource
ROW_FIELDS = {name.name for name in dataclasses.fields(SourceConfig)} - {"path", "weight"}


def open_prepared(config: DataConfig) -> dict[str, TokenSource]:
    """The training split of every prepared source, by name in alphabetic order.

    The others are rows, where the objective reads such.

    Raises:
      UserError: no source, a weight that is not positive, a folder that is not prepared, or
        sources with different tokenizers.
    """
    if not config.mixture:
        raise UserError(
            "data.mixture is empty: name prepared data, such as "
            "config.data.mixture = {'news': {'path': 'runs/data/news', 'weight': 1.0}}."
        )
    sources, on_rows = {}, trains_on_rows(config.objective)
    for name in sorted(config.mixture):
        source, field = config.mixture[name], f"data.mixture.{name}"
        if not (source.weight > 0 and math.isfinite(source.weight)):
            raise UserError(
                f"{field}.weight={source.weight} must be a positive number. In a recipe or on the "
                f"command line, {field}.weight=0 leaves the source out."
            )
        if not source.path:
            rows = ", or a file of rows" if on_rows else ""
            raise UserError(
                f"{path_field(name, source)} is empty: name a folder written by `jaxllm prepare`"
                f"{rows}."
            )
        if not on_rows or is_prepared(source.path):
            _check_unread(source, field, config.objective)
            sources[name] = TokenSource(source.path, "train", path_field(name, source))
    if sources:
        _check_tokenizers(sources)
    return sources


def check_length(source: TokenSource, objective: Objective, field: str) -> None:
    """Refuses a source from which not one window can be cut."""
    if source.num_tokens < objective.raw_length:
        raise UserError(
            f"{field}={str(source.folder)!r}: its {source.split} split has {source.num_tokens:,} "
            f"tokens, fewer than the {objective.raw_length:,} of one window. Set "
            f"data.sequence_length (now {objective.sequence_length}) to at most "
            f"{objective.longest(source.num_tokens)}, or prepare more text."
        )


def weights(config: DataConfig, epochs: Mapping[str, int], rows: Set[str]) -> dict[str, float]:
    """The weight of each source, given the examples of its epoch and the names of those of rows.

    With `data.mixture_temperature` T they are weight · examples ** (1/T) (Raffel et al. 2020,
    section 3.5.2; an example is a row of the batch). Prepared data beside rows keep their share,
    and so does what is replayed.

    Raises:
      UserError: a temperature that is none.
    """
    temperature = config.mixture_temperature
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise UserError(
            f"data.mixture_temperature={temperature} must be a positive number, such as 2.0, or 0 "
            "to go by the weights alone."
        )
    found = {name: config.mixture[name].weight for name in epochs}
    if temperature:
        own = [n for n in found if not isinstance(config.mixture[n], ReplayedSource)]
        tasks = [name for name in own if name in rows] or own
        scaled = {name: found[name] * epochs[name] ** (1 / temperature) for name in tasks}
        share = sum(found[name] for name in tasks) / sum(scaled.values())
        found.update((name, weight * share) for name, weight in scaled.items())
    return found


def parts(
    config: DataConfig, sources: Mapping[str, Source], stream: Objective | None,
    rows: RowObjective | None, seed: int,
) -> dict[str, grain.MapDataset]:
    """An epoch of each source: windows of prepared data, packs of rows."""
    found = {}
    for name, source in sources.items():
        # Grain shuffles epoch e with seed + e: unrelated seeds keep sources from echoing each other
        key = _key(seed, name)
        if isinstance(source, RowSource):
            packs = Packs(
                source.train.lengths, rows.sequence_length, key, shuffle=config.shuffle,
                packing=packs_rows(config, rows),
            )
            found[name] = PackedRows(source.train, packs)
        else:
            check_length(source, stream, path_field(name, config.mixture[name]))
            part = Windows(source, stream.raw_length, stream.overlap, key)
            found[name] = part.shuffle(seed=key) if config.shuffle else part
    return found


def packs_rows(config: DataConfig, objective: RowObjective) -> bool:
    """Whether several rows share one of the batch."""
    return config.packing and "packing" in objective.READS


def examples(
    parts: Mapping[str, grain.MapDataset], turns: WeightedTurns, stream: Objective | None,
    rows: RowObjective | None, seed: int,
) -> grain.MapDataset:
    """Example i of the run, a Batch of [T] arrays, for any i from 0 on."""
    mixed = grain.MapDataset.select_from_datasets([part.repeat() for part in parts.values()], turns)
    return mixed.map_with_index(_Example(stream, rows, seed))


class WeightedTurns(grain.transforms.DatasetSelectionMap):
    """Whose turn it is: (source, index in it) of example k, for sources with given weights.

    Among the first k examples source i has k · weight_i / sum, rounded: each source in turn takes
    its share of what the sources before it left, rounded so that every k has exactly one owner.
    (Grain's own mix rounds the weights themselves to about two digits.)
    """

    def __init__(self, weights: Sequence[float]):
        exact = [Fraction(repr(float(weight))) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        self._weights = [int(weight * scale) for weight in exact]
        self._total = sum(self._weights)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[int, int]:
        # `here` and `after` are what is left for the sources from `number` on, among the first
        # index and index + 1 examples; the source where they stop differing owns the example.
        here, after, total = index, index + 1, self._total
        for number, weight in enumerate(self._weights):
            rest = here * (total - weight) // total
            rest_after = after * (total - weight) // total
            if here - rest != after - rest_after:
                return number, here - rest
            here, after, total = rest, rest_after, total - weight
        raise AssertionError("the last source takes all that is left")


class _Example:
    """The objective applied to window or pack `index`, with randomness of its own."""

    def __init__(self, stream: Objective | None, rows: RowObjective | None, seed: int):
        self._stream, self._rows, self._seed = stream, rows, seed

    def __call__(self, index: int, part: Window | tuple[Example, ...]) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        objective = self._stream if isinstance(part, Window) else self._rows
        return objective.example(part, rng)


def _key(seed: int, name: str) -> int:
    """A 32-bit seed for one source."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _check_unread(source: SourceConfig, field: str, objective: str) -> None:
    """Refuses what is for rows beside prepared data."""
    usual = SourceConfig()
    for name in sorted(ROW_FIELDS):
        if getattr(source, name) != getattr(usual, name):
            why = "is prepared data" if trains_on_rows(objective) else "is read as prepared data"
            raise UserError(
                f"{field}.{name}={getattr(source, name)!r} has no effect: {source.path} {why}, and "
                "it is for rows. Remove it, or name rows."
            )


def _check_tokenizers(sources: Mapping[str, TokenSource]) -> None:
    first, *others = sources
    for name in others:
        ours, theirs = (sources[n].manifest.tokenizer for n in (first, name))
        if ours.hash != theirs.hash:
            raise UserError(
                f"data.mixture.{name} was prepared with another tokenizer ({theirs.kind}, "
                f"{theirs.hash[:12]}) than data.mixture.{first} ({ours.kind}, {ours.hash[:12]}): "
                "the same ids would mean different text. Prepare it again with "
                f"--config.tokenizer.path={sources[first].folder / 'tokenizer'}."
            )
