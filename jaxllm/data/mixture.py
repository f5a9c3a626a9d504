"""The endless stream of training examples: sources shuffled, repeated and mixed by weight."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction

import grain
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives.base import Objective
from jaxllm.data.sources import TokenSource
from jaxllm.data.windows import Windows


def open_sources(config: DataConfig) -> dict[str, TokenSource]:
    """The training split of every source, by name in alphabetic order.

    Raises:
      UserError: no source, a weight that is not positive, a folder that is not prepared, a source
        shorter than a window, or sources with different tokenizers.
    """
    if not config.mixture:
        raise UserError(
            "data.mixture is empty: name prepared data, such as "
            "config.data.mixture = {'news': {'path': 'runs/data/news', 'weight': 1.0}}."
        )
    sources = {}
    for name in sorted(config.mixture):
        source, field = config.mixture[name], f"data.mixture.{name}"
        if not (source.weight > 0 and math.isfinite(source.weight)):
            raise UserError(
                f"{field}.weight={source.weight} must be a positive number. In a recipe or on the "
                f"command line, {field}.weight=0 leaves the source out."
            )
        if not source.path:
            raise UserError(f"{field}.path is empty: name a folder written by `jaxllm prepare`.")
        sources[name] = TokenSource(source.path, "train", f"{field}.path")
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


def turns(config: DataConfig, sources: Mapping[str, TokenSource]) -> WeightedTurns:
    """Which source each example is from, in the order of `sources`."""
    return WeightedTurns([config.mixture[name].weight for name in sources])


def examples(
    config: DataConfig, sources: Mapping[str, TokenSource], objective: Objective, seed: int
) -> grain.MapDataset:
    """Example i of the run, a Batch of [T] arrays, for any i from 0 on."""
    raw_length, parts = objective.raw_length, []
    for name, source in sources.items():
        check_length(source, objective, f"data.mixture.{name}.path")
        # Grain shuffles epoch e with seed + e: unrelated seeds keep sources from echoing each other
        key = _key(seed, name)
        part = Windows(source, raw_length, objective.overlap, key)
        part = part.shuffle(seed=key) if config.shuffle else part
        parts.append(part.repeat())
    mixed = grain.MapDataset.select_from_datasets(parts, turns(config, sources))
    return mixed.map_with_index(_Example(objective, seed))


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
    """The objective applied to window `index`, with randomness of its own."""

    def __init__(self, objective: Objective, seed: int):
        self._objective, self._seed = objective, seed

    def __call__(self, index: int, window: Window) -> Batch:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        return self._objective.example(window, rng)


def _key(seed: int, name: str) -> int:
    """A 32-bit seed for one source."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


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
