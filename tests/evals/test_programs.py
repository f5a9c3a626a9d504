"""How many programs are compiled: counted by jax itself, and what continuations in shared batches
are."""

import random

import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import byte
from jaxllm.evals.scoring import buckets, programs
from jaxllm.evals.scoring.scorer import Scorer
from jaxllm.evals.scoring.writer import Wanted, Writer
from jaxllm.generate import decode
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import TokenRules
from jaxllm.models.load import Model
from jaxllm.nn.compute import make_compute
from tests.evals.test_scoring import make_model, plain, requests_of

COMPILED = (programs.rows, programs.pairs, programs.stems, programs.tails, decode._prefill,
            decode._decode)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def compiled():
    """What gives the number of programs that jax has compiled since the test began."""
    for each in COMPILED:
        each.clear_cache()
    return lambda: sum(each._cache_size() for each in COMPILED)


@pytest.mark.parametrize("shots", [
    -1, pytest.param(3, marks=pytest.mark.thorough),
], ids=["as the tasks say", "3 examples"])
def test_all_local_tasks_at_once_compile_at_most_twelve(llama, all_benchmarks, compiled, shots):
    """On one device, where beginnings that rows share are programs of their own."""
    pytest.importorskip("lm_eval")
    from jaxllm.evals.harness import session
    from jaxllm.evals.harness.adapter import JaxLM

    display = make_display()
    settings = session.Settings(task_data=str(all_benchmarks), num_fewshot=shots)
    planned = session.plan([str(llama)], ["local"], display, settings)
    [(title, variant, saved)] = planned.models
    loaded = session.load_tasks(planned, ["local"], settings, variant)
    assert len(loaded["tasks"]) == 18
    lm = JaxLM(saved.load(make_compute(), print), saved.load_tokenizer(), display, batch_size=4,
               max_length=256)
    asked = session.ask(lm, title, loaded, display, settings)
    assert asked.requests > 300
    kinds = {shape[0] for shape in lm.scorer.counts.shapes}
    assert {"stems", "tails", "prompts", "tokens"} <= kinds
    assert 4 < asked.compiled == compiled() <= 12


@pytest.mark.parametrize("kinds", [
    ["multiple_choice"], ["generate_until"], ["loglikelihood_rolling"],
    ["loglikelihood", "generate_until"], ["multiple_choice", "loglikelihood_rolling"],
    ["multiple_choice", "loglikelihood_rolling", "generate_until"],
])
def test_kinds_of_requests_share_twelve_programs(kinds):
    pytest.importorskip("lm_eval")
    from jaxllm.evals.harness.adapter import allowed

    share = allowed(kinds)
    asked = {"loglikelihood_rolling": share.rolling, "generate_until": share.generating,
             "loglikelihood": share.scoring, "multiple_choice": share.scoring}
    assert 1 < sum({kind: asked[kind] for kind in kinds}.values()) <= 12


@pytest.mark.parametrize("most", [
    2, *(pytest.param(most, marks=pytest.mark.thorough) for most in (4, 6, 10)),
])
def test_a_call_compiles_no_more_than_it_may(tiny, build, compute, compiled, most):
    """Rows of all lengths, half of which share beginnings of all lengths."""
    model, rng = make_model(tiny["llama"], build, compute), random.Random(most)
    requests = requests_of(rng, 20, most=50)
    for length in (9, 20, 45):
        requests += [
            type(r)([*range(1, length), *r.context], r.continuation)
            for r in requests_of(rng, 20, 3, most=30)
        ]
    scorer = Scorer(model, batch_size=4, max_length=90)
    found = scorer.score(requests, programs=most)
    assert scorer.counts.compiles == compiled() <= most
    for request, scored in list(zip(requests, found, strict=True))[::9]:
        assert scored.total == pytest.approx(float(plain(model, request, 90)[0].sum()), abs=1e-4)


def test_later_calls_use_the_programs_of_earlier_ones(tiny, build, compute):
    model = make_model(tiny["llama"], build, compute)
    scorer = Scorer(model, batch_size=4, max_length=128)
    rng = random.Random(0)

    def rows(length):
        return [type(one)([rng.randrange(48) for _ in range(length)], [1, 2])
                for one in requests_of(rng, 20)]

    scorer.score(rows(100))
    before = scorer.counts.compiles
    shorter = rows(90)
    found = scorer.score(shorter)
    assert scorer.counts.compiles == before
    assert found[0].total == pytest.approx(float(plain(model, shorter[0], 128)[0].sum()), abs=1e-4)
    scorer.score(rows(40))  # padded to more than twice as many tokens they would cost too much
    assert scorer.counts.compiles == before + 1


def test_pairs_of_lengths_waste_no_more_than_two_lengths_each():
    rng = random.Random(0)
    for _ in range(20):
        n = rng.randint(1, 30)
        lengths, tails, rows = ([rng.randint(1, most) for _ in range(n)] for most in (200, 60, 20))

        def cost(some, rows=rows):
            return sum(length * len(members) + tail * sum(rows[m] for m in members)
                       for length, tail, members in some)

        found = buckets.split_stems(lengths, tails, rows, 4, 8)
        assert len(found) <= 4
        assert sorted(m for _, _, members in found for m in members) == list(range(n))
        assert all(lengths[m] <= length and tails[m] <= tail
                   for length, tail, members in found for m in members)
        plain_way = [
            (length, tail, [members[i] for i in some])
            for tail, members in buckets.split(tails, 2, 8)
            for length, some in buckets.split([lengths[m] for m in members], 2)
        ]
        assert cost(found) <= cost(plain_way)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_prompts_of_all_kinds_share_batches(tiny, build, compute, compiled, family):
    """Each row is what is generated for its prompt alone, with its own limit and stop strings."""
    import dataclasses

    tokenizer = byte.ByteTokenizer()
    config = dataclasses.replace(tiny[family], vocab_size=tokenizer.vocab_size)
    structure, params = build(config, compute, seed=3)
    model = Model(config, compute, structure, params, 0)
    rng, rules = random.Random(0), TokenRules((tokenizer.eos_id,))
    prompts = ["".join(rng.choices("abc de", k=(5, 40)[i % 2])) for i in range(8)]
    limits = [(3, 24)[i // 2 % 2] for i in range(8)]
    alone = [
        generate(model, tokenizer, [prompt], max_new_tokens=limit, sampling=GREEDY, rules=rules)[0]
        .text for prompt, limit in zip(prompts, limits, strict=True)
    ]
    # the last character of every other text that is one: bytes that are none make "\ufffd"
    stops = [tuple([x for x in text if x.isascii()][-1:]) if i % 2 else ()
             for i, text in enumerate(alone)]
    assert any(stops)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    if family == "t5":
        ids = [tokenizer.with_special_tokens(row)[0] for row in ids]
    before = compiled()
    writer = Writer(model, tokenizer, rules, batch_size=4, start_id=tokenizer.pad_id or 0)
    wanted = [Wanted(*each) for each in zip(ids, limits, stops, strict=True)]
    texts = {place: row.text for place, row in writer.write(wanted, GREEDY, lengths=2)}
    assert [texts[place] for place in range(8)] == [
        text.partition(stop[0])[0] if stop else text
        for text, stop in zip(alone, stops, strict=True)
    ]
    assert len(writer.counts.shapes) == 4
    assert compiled() - before <= 4


def test_draws_differ_within_and_between_batches_and_not_between_calls(tiny, build, compute):
    import dataclasses

    tokenizer = byte.ByteTokenizer()
    config = dataclasses.replace(tiny["llama"], vocab_size=tokenizer.vocab_size)
    structure, params = build(config, compute)
    writer = Writer(Model(config, compute, structure, params, 0), tokenizer, TokenRules(),
                    batch_size=2)

    def write(seed):
        wanted = [Wanted([5, 6, 7], 12)] * 4
        return {place: tuple(row.ids) for place, row in
                writer.write(wanted, Sampling(1.0), seed=seed)}

    assert len(set(write(0).values())) == 4
    assert write(0) == write(0)
    assert set(write(0).values()).isdisjoint(write(1).values())


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, top_p=0.9)], ids=["greedy", "drawn"])
def test_scores_that_are_not_numbers_are_told_and_not_written(tiny, build, compute, sampling):
    import dataclasses

    import jax

    tokenizer = byte.ByteTokenizer()
    config = dataclasses.replace(tiny["llama"], vocab_size=tokenizer.vocab_size)
    structure, params = build(config, compute)
    broken = Model(config, compute, structure, jax.tree.map(lambda x: x * float("nan"), params), 0)
    writer = Writer(broken, tokenizer, TokenRules(), batch_size=2)
    with pytest.raises(UserError, match="not numbers"):
        list(writer.write([Wanted([5, 6], 4)], sampling))
    [completion] = generate(broken, tokenizer, ["a"], max_new_tokens=4, sampling=sampling)
    assert (completion.token_ids, completion.finish_reason) == ((), "nan")
