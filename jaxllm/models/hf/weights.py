"""How tensors of a Hugging Face folder lie in our parameter tree: a table, used both ways.

An entry pairs one name of theirs with one parameter of ours, or with several that they keep fused.
`*` in our path and `{}` in their name stand for a layer: ours are stacked, theirs are not. Nothing
is computed but the order of elements, so that import and export are each other's inverse. The
file imports no jax, because the families' files are read for their presets too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The order of a tensor's elements."""

    transposed: bool = True  # matrices are [outputs, inputs], as torch.nn.Linear keeps them
    by_head: bool = False  # fused parts alternate head by head (BLOOM), not one after the other
    row: bool = False  # a vector is kept as [1, n]


LINEAR, CONV1D = Layout(), Layout(transposed=False)


@dataclass(frozen=True)
class Entry:
    """One name of theirs, and our paths that make it up."""

    ours: tuple[str, ...]
    theirs: str
    layout: Layout = LINEAR
    # (a parameter of ours, bool): only in models that have it, or only in those that have not
    when: tuple[str, bool] | None = None
    heads: tuple[str, ...] = ()  # only in models with heads of these kinds; (): in all


Table = tuple[Entry, ...]


def linear(ours: str | tuple[str, ...], theirs: str, layout: Layout = LINEAR) -> Table:
    """A linear map's kernel and bias, fused when `ours` names several."""
    ours = (ours,) if isinstance(ours, str) else ours
    return (
        Entry(tuple(f"{path}.kernel" for path in ours), f"{theirs}.weight", layout),
        Entry(tuple(f"{path}.bias" for path in ours), f"{theirs}.bias", layout),
    )


def norm(ours: str, theirs: str) -> Table:
    """A normalisation's scale and bias."""
    return (
        Entry((f"{ours}.scale",), f"{theirs}.weight"), Entry((f"{ours}.bias",), f"{theirs}.bias"),
    )


def table(ours: str, theirs: str) -> Table:
    """An embedding's rows."""
    return (Entry((f"{ours}.table",), f"{theirs}.weight"),)


def vector(ours: str, theirs: str, layout: Layout = LINEAR) -> Table:
    """A parameter under its full names."""
    return (Entry((ours,), theirs, layout),)


def under(ours: str, theirs: str, *tables: Table) -> Table:
    """The tables with both sides' names below these."""
    def moved(entry: Entry) -> Entry:
        when = entry.when and (ours + entry.when[0], entry.when[1])
        paths = tuple(ours + path for path in entry.ours)
        return dataclasses.replace(entry, ours=paths, theirs=theirs + entry.theirs, when=when)

    return tuple(moved(entry) for table in tables for entry in table)


def when(parameter: str, there: bool, *tables: Table) -> Table:
    """The tables for models that have this parameter, or for those that have it not."""
    return tuple(
        dataclasses.replace(entry, when=(parameter, there)) for table in tables for entry in table
    )


def for_heads(kinds: tuple[str, ...], *tables: Table) -> Table:
    """The tables for models with a head of these kinds."""
    return tuple(
        dataclasses.replace(entry, heads=kinds) for table in tables for entry in table
    )


def output_head(language: str, sequence: str, token: str) -> Table:
    """The output projection, under its names in classes for language, texts and tokens."""
    names = {("lm",): language, ("sequence_classification", "reward"): sequence,
             ("token_classification",): token}
    return tuple(
        entry for kinds, name in names.items()
        for entry in for_heads(kinds, linear("head.output", name))
    )
