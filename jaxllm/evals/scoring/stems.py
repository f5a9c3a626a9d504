"""Beginnings that rows share, so that they are computed once.

Sorted, rows with a common beginning stand together, and the beginnings form a tree. A stem of n
tokens that r rows share saves n (r - 1) tokens; `choose` takes the set of stems, none within
another, that saves the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 8  # tokens of a stem: for fewer a cache is not worth it


@dataclass
class Stem:
    """The first `length` tokens of each of `rows`."""

    length: int
    rows: list[int]


@dataclass
class _Node:
    """Rows first … last - 1 of the sorted ones share `depth` tokens."""

    depth: int
    first: int
    saved: int = 0  # the most that stems within it save
    stems: tuple[tuple[int, int, int], ...] = ()  # (length, first, last)

    def close(self, last: int) -> None:
        """Decides, when all rows are known, whether the node's own beginning is the better stem."""
        own = self.depth * (last - self.first - 1)
        if self.depth >= LEAST and own >= self.saved:
            self.saved, self.stems = own, ((self.depth, self.first, last),)

    def take(self, child: _Node) -> None:
        """Adds what a node within this one saves."""
        self.saved += child.saved
        self.stems += child.stems


def choose(rows: Sequence[Sequence[int]], ends: Sequence[int]) -> tuple[list[Stem], list[int]]:
    """The stems that save the most tokens, and the rows that are in none.

    A stem leaves at least one token of each of its rows, and never goes beyond a row's `ends`: the
    place of its first scored token, which has to be read with what follows.
    """
    order = sorted(range(len(rows)), key=lambda row: tuple(rows[row]))
    stack, root = [_Node(0, 0)], None
    for place in range(1, len(order) + 1):
        depth = 0
        if place < len(order):
            a, b = order[place - 1], order[place]
            depth = min(_common(rows[a], rows[b]), ends[a], ends[b])
        child, first = None, place - 1
        while stack and stack[-1].depth > depth:
            node = stack.pop()
            if child is not None:
                node.take(child)
            node.close(place)
            child, first = node, node.first
        if stack and stack[-1].depth == depth:
            if child is not None:
                stack[-1].take(child)
        else:
            stack.append(_Node(depth, first))
            if child is not None:
                stack[-1].take(child)
    root = stack[0]
    found = [Stem(n, order[first:last]) for n, first, last in root.stems]
    within = {row for stem in found for row in stem.rows}
    return found, [row for row in range(len(rows)) if row not in within]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two rows begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
