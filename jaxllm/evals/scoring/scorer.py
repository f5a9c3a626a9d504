"""Scores requests in batches: rows of like length together, shared beginnings computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import check_batch
from jaxllm.evals.scoring import buckets
from jaxllm.evals.scoring import programs as compiled
from jaxllm.evals.scoring.follow import Tell, nobody
from jaxllm.evals.scoring.rows import Request, Row, Scored, pairs_of, rows_of
from jaxllm.evals.scoring.stems import Stem, choose
from jaxllm.models.load import Model
from jaxllm.nn.attention import Cache

PROGRAMS = 10  # of a call
LENGTHS = 4  # of whole rows; half as many where there are stems
TAIL_STEP = 8  # tails are short
PAYS = 0.75  # stems are used where at most this share of the padded tokens remains
CPU_TOKENS = 2048  # of a batch on a CPU: more leave its caches, and take half as long again
LARGE = 32  # rows of a stem from which on it is alone in its batch
NEAR = 1.25  # times the length that is wanted: so long a one of an earlier call is taken instead
PENDING = 2  # batches computed while the results of others are read
Told = Callable[[int], None]  # how many more requests are done


class _Batch(NamedTuple):
    """Rows on their way through the model."""

    rows: Sequence[Row]
    rows_of_part: int
    found: tuple[jax.Array, jax.Array]  # log-probability and likeliest or not, [N, P]


@dataclass
class Counts:
    """What was done, for the report."""

    requests: int = 0
    truncated: int = 0  # requests that lost the beginning of their context
    tokens: int = 0  # of all contexts and continuations
    targets: int = 0  # of all continuations
    computed: int = 0  # that went through the model, padding included
    shapes: set[tuple] = field(default_factory=set)

    @property
    def compiles(self) -> int:
        """Programs that were compiled."""
        return len(self.shapes)


class Scorer:
    """Log-probabilities of continuations by one model."""

    def __init__(
        self, model: Model, *, batch_size: int, max_length: int, start_id: int = 0,
        tell: Tell = nobody,
    ):
        """`batch_size` rows of `max_length` tokens are computed at once, or as many tokens in
        shorter rows; on a CPU fewer, which is faster. `start_id` is what an encoder-decoder's
        decoder begins with. `tell` is how the processes of other hosts hear what they are to
        `repeat`."""
        self._sharding = model.compute.sharding
        check_batch(self._sharding, batch_size, "--batch_size")
        self._parts = self._sharding.parts("batch")
        self._model, self.start_id, self._tell = model, start_id, tell
        self.max_length = max_length
        self._tokens = batch_size * max_length
        if self._sharding.mesh.devices.flat[0].platform == "cpu":
            self._tokens = min(self._tokens, max(CPU_TOKENS, max_length))
        self.counts = Counts()
        self._sizes: dict[tuple, set[int]] = {}  # that there are programs for
        self._earlier: dict[tuple, frozenset[int]] = {}

    def score(
        self, requests: Sequence[Request], told: Told | None = None, programs: int = PROGRAMS
    ) -> list[Scored]:
        """A result for each request, in their order, with at most `programs` programs.

        Those of earlier calls are used again where the lengths are near.

        Raises:
          UserError: a score is not a number.
        """
        self._earlier = {key: frozenset(sizes) for key, sizes in self._sizes.items()}
        paired = self._model.config.architecture == "encoder_decoder"
        if paired:
            rows, cut = pairs_of(requests, self.max_length, self.start_id)
        else:
            rows, cut = rows_of(requests, self.max_length)
        self.counts.requests += len(requests)
        self.counts.truncated += cut
        self.counts.targets += sum(len(r.continuation) for r in requests)
        self.counts.tokens += sum(len(r.context) + len(r.continuation) for r in requests)
        results: list[Scored | None] = [None] * len(requests)
        batches = self._paired(rows, programs) if paired else self._single(rows, programs)
        pending = []
        for batch in batches:
            pending.append(batch)
            if len(pending) > PENDING:
                _read(pending.pop(0), results, told)
        for batch in pending:
            _read(batch, results, told)
        return results

    def repeat(self, name: str, arrays: Sequence[np.ndarray], lookup: Sequence[Any]) -> None:
        """Dispatches what another process told; nobody reads here what comes of it."""
        whole = {"rows": compiled.rows, "pairs": compiled.pairs}  # no stems on several devices
        self._run(name, whole[name], *arrays, lookup=compiled.Lookup(*lookup))

    def _single(self, rows: list[Row], programs: int) -> Iterator[_Batch]:
        whole = min(LENGTHS, programs)
        stems, alone = self._stems(rows, programs)
        if stems:
            whole = min(LENGTHS // 2, len(alone))
            for length, tail, some in self._stem_groups(rows, stems, alone, programs):
                yield from self._with_stems(rows, some, length, tail)
        lengths = [len(rows[row].ids) for row in alone]
        for length, members in buckets.split(lengths, whole):
            length = self._near(("rows",), length)
            size = buckets.batch_rows(self._tokens, length, len(members), self._parts)
            chosen = [rows[alone[member]] for member in members]
            chunks = _chunks(chosen, size)
            most = self._most_places(chunks, size, ("rows", length))
            for chunk in chunks:
                ids = _padded([row.ids for row in chunk], size, length)
                lookup = self._lookup(chunk, size, length, most)
                found = self._run("rows", compiled.rows, ids, lookup=lookup)
                yield _Batch(chunk, size // self._parts, found)

    def _paired(self, rows: list[Row], programs: int) -> Iterator[_Batch]:
        lengths = [len(row.context) for row in rows]
        for length, members in buckets.split(lengths, min(LENGTHS, programs)):
            chosen = [rows[member] for member in members]
            length = self._near(("contexts",), length)
            short = self._near((length,), buckets.rounded(max(len(row.ids) for row in chosen)))
            size = buckets.batch_rows(self._tokens, length + short, len(chosen), self._parts)
            chunks = _chunks(chosen, size)
            most = self._most_places(chunks, size, ("pairs", length, short))
            for chunk in chunks:
                context = _padded([row.context for row in chunk], size, length)
                lengths = np.ones(size, np.int32)
                lengths[: len(chunk)] = [len(row.context) for row in chunk]
                ids = _padded([row.ids for row in chunk], size, short)
                lookup = self._lookup(chunk, size, short, most)
                found = self._run(
                    "pairs", compiled.pairs, context, lengths, ids, lookup=lookup
                )
                yield _Batch(chunk, size // self._parts, found)

    def _stems(self, rows: list[Row], programs: int) -> tuple[list[Stem], list[int]]:
        """The stems to use, none where they do not pay, and the rows outside them."""
        everything = list(range(len(rows)))
        too_few = programs < LENGTHS // 2 + 2 or len(rows) < 2
        if too_few or self._parts > 1:  # a stem's cache lies on one device
            return [], everything
        stems, alone = choose([row.ids for row in rows], [min(row.places) for row in rows])
        if not stems:
            return [], everything
        cost = self._cost([len(rows[row].ids) for row in alone], LENGTHS // 2) + sum(
            self._stems_cost(some, length, tail)
            for length, tail, some in self._stem_groups(rows, stems, alone, programs)
        )
        whole = self._cost([len(row.ids) for row in rows], min(LENGTHS, programs))
        return (stems, alone) if cost <= PAYS * whole else ([], everything)

    def _stem_groups(
        self, rows: list[Row], stems: list[Stem], alone: list[int], programs: int
    ) -> list[tuple[int, int, list[Stem]]]:
        """(padded length, padded length of what follows, the stems of them)."""
        tails = [max(len(rows[row].ids) for row in stem.rows) - stem.length for stem in stems]
        found = buckets.split_stems(
            [stem.length for stem in stems], tails, [len(stem.rows) for stem in stems],
            (programs - min(LENGTHS // 2, len(alone))) // 2, TAIL_STEP,
        )
        return [(length, tail, [stems[m] for m in members]) for length, tail, members in found]

    def _cost(self, lengths: Sequence[int], most: int) -> int:
        """Tokens of the padded batches of rows of these lengths."""
        cost = 0
        for length, members in buckets.split(lengths, most):
            size = buckets.batch_rows(self._tokens, length, len(members), self._parts)
            cost += buckets.rounded(len(members), size) * length
        return cost

    def _stems_cost(self, stems: list[Stem], length: int, tail: int) -> int:
        """Tokens of the padded batches of stems and of what follows them."""
        together, size, groups = self._grouped(stems, length, tail)
        rows = sum(
            buckets.rounded(sum(len(stem.rows) for stem in group), size) for group in groups
        )
        return len(groups) * together * length + rows * tail

    def _grouped(
        self, stems: list[Stem], length: int, tail: int
    ) -> tuple[int, int, list[Sequence[Stem]]]:
        """Stems at once, rows of theirs at once, and the stems in such groups."""
        many, together = sum(len(stem.rows) for stem in stems), 1
        if many < LARGE * len(stems):
            together = buckets.batch_rows(self._tokens, length, len(stems), 1)
        groups = _chunks(stems, together)
        fullest = max(sum(len(stem.rows) for stem in group) for group in groups)
        return together, buckets.batch_rows(self._tokens, length + tail, fullest, 1), groups

    def _with_stems(
        self, rows: list[Row], stems: list[Stem], length: int, tail: int
    ) -> Iterator[_Batch]:
        """The batches of the stems' rows; stems are padded to `length`, what follows to `tail`."""
        length, tail = self._near(("stems",), length), self._near(("tails",), tail)
        together, size, groups = self._grouped(stems, length, tail)
        plan = [
            _chunks([(place, row) for place, stem in enumerate(group) for row in stem.rows], size)
            for group in groups
        ]
        most = self._most_places(
            [[rows[row] for _, row in chunk] for chunks in plan for chunk in chunks], size,
            (length, tail, together),
        )
        for group, chunks in zip(groups, plan, strict=True):
            firsts = [rows[stem.rows[0]].ids[: stem.length] for stem in group]
            ids = _padded(firsts, together, length)
            cache = self._run("stems", compiled.stems, ids, static=length + tail)
            for chunk in chunks:
                yield self._tails(rows, group, chunk, cache, (size, tail, most))

    def _tails(self, rows, group, chunk, cache, shape) -> _Batch:
        """The batch of a chunk of (place of the stem in its group, row)."""
        size, length, most = shape
        chosen = [rows[row] for _, row in chunk]
        begins = [group[place].length for place, _ in chunk]
        which, starts = np.zeros(size, np.int32), np.zeros(size, np.int32)
        which[: len(chunk)] = [place for place, _ in chunk]
        starts[: len(chunk)] = begins
        ids = _padded(
            [row.ids[begin:] for row, begin in zip(chosen, begins, strict=True)], size, length
        )
        lookup = self._lookup(chosen, size, length, most, begins)
        found = self._run("tails", compiled.tails, which, starts, ids, lookup=lookup, cache=cache)
        return _Batch(chosen, size, found)

    def _most_places(self, chunks: list[list[Row]], size: int, shape: tuple) -> int:
        """Places looked up in the fullest part of a batch of this shape, rounded."""
        rows = size // self._parts
        most = max(
            sum(len(row.places) for row in chunk[first : first + rows])
            for chunk in chunks for first in range(0, size, rows)
        )
        most = buckets.rounded(most, 64 if most <= compiled.PLACES else compiled.PLACES)
        return self._near(("places", size, *shape), most, 2.0)

    def _near(self, kind: tuple, size: int, times: float = NEAR) -> int:
        """The size, or one of an earlier call that is a little larger: it is compiled already."""
        found = min(
            (n for n in self._earlier.get(kind, ()) if size <= n <= times * size), default=size
        )
        self._sizes.setdefault(kind, set()).add(found)
        return found

    def _lookup(
        self, chunk: list[Row], size: int, length: int, most: int,
        begins: Sequence[int] | None = None,
    ) -> compiled.Lookup:
        rows = size // self._parts
        index, tokens = (np.zeros((self._parts, most), np.int32) for _ in range(2))
        filled = [0] * self._parts
        for number, row in enumerate(chunk):
            part, offset = number // rows, number % rows * length
            if begins is not None:
                offset -= begins[number]
            first, count = filled[part], len(row.places)
            index[part, first : first + count] = np.asarray(row.places) + offset
            tokens[part, first : first + count] = row.targets
            filled[part] += count
        return compiled.Lookup(index, tokens)

    def _run(
        self, name: str, program: Callable, *arrays: np.ndarray,
        lookup: compiled.Lookup | None = None, cache: Cache | None = None,
        static: int | None = None,
    ):
        """Dispatches a batch, on all hosts; arrays have the batch as their first axis."""
        self._tell("score", name, arrays, lookup)
        held = () if cache is None else (cache,)
        fixed = () if static is None else (static,)
        rest = () if lookup is None else (self._placed(lookup, ("batch", None)),)
        shapes = tuple(x.shape for x in jax.tree.leaves((arrays, held, rest)))
        self.counts.shapes.add((name, fixed, shapes))
        self.counts.computed += sum(a.size for a in arrays if a.ndim == 2)
        placed = [self._placed(a, ("batch", "sequence")[: a.ndim]) for a in arrays]
        model = self._model
        return program(model.structure, *fixed, model.params, *held, *placed, *rest)

    def _placed(self, tree, axes: tuple[str | None, ...]):
        if self._parts == 1:
            return tree
        named = self._sharding.named(axes)
        if named.is_fully_addressable:
            return jax.device_put(tree, named)
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, named, x.__getitem__), tree
        )


def no_numbers() -> UserError:
    """What to say of a model whose scores are NaN."""
    return UserError(
        "The model's scores are not numbers (NaN): one of its parameters is not finite, or its "
        "activations overflow. Choose another step of the run, or another dtype."
    )


def _read(batch: _Batch, results: list[Scored | None], told: Told | None) -> None:
    """Takes a batch's results apart."""
    log_NP, greedy_NP = (np.asarray(x) for x in batch.found)
    offsets, done = [0] * len(log_NP), 0
    for number, row in enumerate(batch.rows):
        part = number // batch.rows_of_part
        first, offsets[part] = offsets[part], offsets[part] + len(row.places)
        log, greedy = (x[part, first : offsets[part]] for x in (log_NP, greedy_NP))
        if np.isnan(log).any():
            raise no_numbers()
        for request, begin, count in row.parts:
            results[request] = Scored(log[begin : begin + count], greedy[begin : begin + count])
            done += 1
    if told:
        told(done)


def _chunks(items: Sequence, size: int) -> list[Sequence]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _padded(rows: Sequence[Sequence[int]], size: int, length: int) -> np.ndarray:
    """The rows as an array [size, length], with zeros behind and below them."""
    array = np.zeros((size, length), np.int32)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array
