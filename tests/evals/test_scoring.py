"""Batched scores against one request at a time, and the plans of rows against plain search."""

import itertools
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.evals.scoring import buckets, stems
from jaxllm.evals.scoring.rows import Request
from jaxllm.evals.scoring.scorer import Scorer
from jaxllm.models.load import Model
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind


def make_model(config, build, compute):
    structure, params = build(config, compute)
    return Model(config, compute, structure, params, 0)


def requests_of(rng, count, shared=0, most=14):
    """Random requests; with `shared` their contexts come from so many ones and share a beginning.
    """
    def tokens(n):
        return [rng.randrange(1, 48) for _ in range(n)]

    start = tokens(9) if shared else []
    contexts = [start + tokens(rng.randint(1, most)) for _ in range(shared or count)]
    return [Request(contexts[i % len(contexts)], tokens(rng.randint(1, 5))) for i in range(count)]


def plain(model, request, max_length):
    """(log-probabilities, greedy) by the full scores of the request's own row."""
    n = len(request.continuation)
    if model.config.architecture == "encoder_decoder":
        encoder, ids = request.context[-max_length:], [0, *request.continuation[:-1]]
    else:
        encoder, ids = [], [*request.context, *request.continuation][-(max_length + 1):-1]
    rows = [np.pad(np.asarray(row, np.int32), (0, 24 * (len(row) // 24 + 1) - len(row)))[None]
            for row in (encoder, ids)] if len(ids) != 24 else [None, np.asarray(ids)[None]]
    scores = np.asarray(full(model.structure, model.params, *rows, len(encoder)))
    scores, true = scores[len(ids) - n : len(ids)], np.asarray(request.continuation)
    return scores[np.arange(n), true], scores.argmax(axis=-1) == true


@partial(jax.jit, static_argnums=0)
def full(structure, params, encoder, ids, length):
    """All scores of a row [T, V]."""
    model, places = bind(structure, params), jnp.arange(ids.shape[1])[None]
    inputs = Inputs(ids, places)
    if model.encoder is not None:
        row = jnp.arange(encoder.shape[1])[None]
        own = Inputs(encoder, row, (row < length).astype(jnp.int32))
        inputs = Inputs(ids, places, jnp.ones_like(ids), encoder=own)
    return jax.nn.log_softmax(model.logits(model.hidden(inputs))[0], axis=-1)


@pytest.mark.parametrize(("family", "shared"), [
    ("llama", 0), ("llama", 3),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in (
        ("gpt2", 0), ("gpt2", 3), ("gemma3", 0), ("gemma3", 3), ("t5", 0), ("t5", 3),
    )),
])
def test_batches_equal_requests_one_at_a_time(tiny, build, compute, family, shared):
    model = make_model(tiny[family], build, compute)
    scorer = Scorer(model, batch_size=4, max_length=20)
    requests = requests_of(random.Random(1), 24, shared)
    for request, scored in zip(requests, scorer.score(requests), strict=True):
        log, greedy = plain(model, request, 20)
        np.testing.assert_allclose(scored.log_probabilities, log, atol=2e-5)
        assert (scored.greedy == greedy).all()
        assert scored.total == pytest.approx(float(log.sum()), abs=1e-4)
    names = {shape[0] for shape in scorer.counts.shapes}
    decoder = family != "t5"
    assert names == ({"pairs"} if not decoder else {"rows"} if not shared else names)
    assert ("tails" in names) == (decoder and bool(shared))
    assert scorer.counts.compiles <= 8


def test_shared_beginnings_are_computed_once(tiny, build, compute):
    model = make_model(tiny["llama"], build, compute)
    rng = random.Random(0)
    context = [rng.randrange(48) for _ in range(48)]
    requests = [Request(context, [a, b, a]) for a, b in itertools.product(range(8), range(8))]
    scorer = Scorer(model, batch_size=16, max_length=64)
    scorer.score(requests)
    assert scorer.counts.computed < 0.5 * scorer.counts.tokens


def test_choices_of_one_token_are_one_row(tiny, build, compute):
    model = make_model(tiny["llama"], build, compute)
    requests = [Request([5, 6, 7], [choice]) for choice in range(1, 5)]
    scorer = Scorer(model, batch_size=4, max_length=16)
    found = scorer.score(requests)
    assert scorer.counts.computed == 16  # one padded row
    np.testing.assert_allclose(
        [scored.total for scored in found],
        [plain(model, request, 16)[0].sum() for request in requests], atol=2e-5,
    )


def test_long_requests_lose_their_beginning_and_are_counted(tiny, build, compute):
    model = make_model(tiny["gpt2"], build, compute)  # learned positions: 24
    rng = random.Random(0)
    requests = requests_of(rng, 5, most=3)
    requests.append(Request([rng.randrange(48) for _ in range(40)], [1, 2, 3]))
    scorer = Scorer(model, batch_size=2, max_length=24)
    last = scorer.score(requests)[-1]
    assert scorer.counts.truncated == 1
    np.testing.assert_allclose(
        last.log_probabilities, plain(model, requests[-1], 24)[0], atol=2e-5)


def test_devices_share_the_rows(tiny, build, sharding_of):
    requests = requests_of(random.Random(2), 30)
    found = []
    for axes in ({"data": 1}, {"data": 4, "fsdp": 2}):
        compute = make_compute(sharding_of(**axes)) if axes["data"] > 1 else make_compute()
        model = make_model(tiny["llama"], build, compute)
        found.append([s.total for s in Scorer(model, batch_size=8, max_length=32).score(requests)])
    np.testing.assert_allclose(*found, atol=2e-5)


def test_many_places_are_looked_up_in_parts(tiny, build, compute, monkeypatch):
    monkeypatch.setattr("jaxllm.evals.scoring.programs.PLACES", 64)
    model = make_model(tiny["llama"], build, compute)
    rng = random.Random(3)
    requests = [Request([1], [rng.randrange(48) for _ in range(40)]) for _ in range(7)]
    found = Scorer(model, batch_size=4, max_length=48).score(requests)
    for request, scored in zip(requests, found, strict=True):
        np.testing.assert_allclose(
            scored.log_probabilities, plain(model, request, 48)[0], atol=2e-5)


def test_scores_that_are_no_numbers_are_refused(tiny, build, compute):
    model = make_model(tiny["llama"], build, compute)
    params = jax.tree.map(lambda x: x * jnp.nan, model.params)
    broken = Model(model.config, model.compute, model.structure, params, 0)
    with pytest.raises(UserError, match="NaN"):
        Scorer(broken, batch_size=2, max_length=16).score([Request([1], [2])])


def test_progress_is_told(tiny, build, compute):
    model = make_model(tiny["llama"], build, compute)
    told = []
    Scorer(model, batch_size=2, max_length=16).score(
        requests_of(random.Random(0), 9, most=5), told.append)
    assert sum(told) == 9


def test_lengths_waste_the_least():
    rng = random.Random(0)
    for _ in range(20):
        lengths = [rng.randint(1, 130) for _ in range(rng.randint(1, 30))]
        sizes = sorted({buckets.rounded(n) for n in lengths})

        def cost(chosen, lengths=lengths):
            return sum(min(c for c in chosen if c >= n) for n in lengths)

        best = min(
            cost(some) for k in (1, 2, 3) for some in itertools.combinations(sizes, k)
            if some[-1] == sizes[-1]
        )
        chosen = buckets.choose(lengths, 3)
        assert len(chosen) <= 3
        assert cost(chosen) == best
        split = buckets.split(lengths, 3)
        assert sorted(row for _, rows in split for row in rows) == list(range(len(lengths)))
        assert all(lengths[row] <= size for size, rows in split for row in rows)


def test_stems_save_the_most():
    """Against every way to cut the sorted rows into groups with a stem."""
    rng = random.Random(1)
    for _ in range(60):
        rows = {tuple(rng.randrange(2) for _ in range(rng.randint(10, 30)))
                for _ in range(rng.randint(2, 6))}
        start = tuple(rng.randrange(2) for _ in range(9))
        rows = sorted(start + row if rng.random() < 0.7 else row for row in rows)
        ends = [rng.randint(5, len(row) - 1) for row in rows]

        def stem(some, rows=rows, ends=ends):
            n = min(ends[i] for i in some)
            first = [rows[i][:n] for i in some]
            while len({row[:n] for row in first}) > 1:
                n -= 1
            return n if n >= stems.LEAST else 0

        def best(first, rows=rows, stem=stem):
            if first == len(rows):
                return 0
            return max(
                stem(range(first, last)) * (last - first - 1) + best(last)
                for last in range(first + 1, len(rows) + 1)
            )

        found, alone = stems.choose(rows, ends)
        assert sum(s.length * (len(s.rows) - 1) for s in found) == best(0)
        assert sorted([row for s in found for row in s.rows] + alone) == list(range(len(rows)))
        for s in found:
            assert len({rows[row][: s.length] for row in s.rows}) == 1
            assert all(s.length <= ends[row] for row in s.rows)
