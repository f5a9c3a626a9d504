"""Retrieval by an encoder's embeddings: the vectors are transformers', the search is exact."""

import json

import numpy as np
import pytest

from jaxllm.cli.main import main
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.evals.retrieval import embeddings
from jaxllm.evals.retrieval.base import retriever
from jaxllm.evals.retrieval.bm25 import Bm25
from jaxllm.evals.retrieval.embeddings import Embedded, Embedder
from jaxllm.evals.retrieval.passages import Passages

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "stone", "blue", "seven", "walk",
         "garden", "night", "open", "letter", "sun", ".", "question", ":", "answer"]
TEXTS = ["river", "stone blue . walk", "seven " * 30, "garden night open letter sun " * 20, "",
         "sun . blue", "night night walk"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(folder, transformers' model and tokenizer) of a random BERT."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    torch.manual_seed(0)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.5,
    ))
    model.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return folder, model.eval(), tokenizer


def theirs(torch, model, tokenizer, texts):
    """Mean pooling over the tokens that are no padding, of length one."""
    rows = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**rows).last_hidden_state
    mask = rows["attention_mask"][..., None].float()
    means = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means, dim=1).numpy()


def test_embeddings_equal_those_of_transformers(bert):
    import torch

    folder, model, tokenizer = bert
    embeddings._means.clear_cache()
    embedder = Embedder.open(str(folder), 4, print)
    expected = theirs(torch, model, tokenizer, TEXTS)
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(TEXTS[3:4]), expected[3:4], atol=1e-5)
    for count in range(1, 7):
        embedder.embed(["river sun"] * count * 7)
    assert embeddings._means._cache_size() == 2  # of 32 and of 64 tokens


@pytest.mark.parametrize("family", [
    "gpt2", *(pytest.param(family, marks=pytest.mark.thorough) for family in ("llama", "t5")),
])
def test_other_models_give_the_mean_of_their_states_too(tiny, build, compute, family):
    """A text's embedding does not depend on those beside it, nor on what it is padded to."""
    import dataclasses

    from jaxllm.data.tokenizers import byte
    from jaxllm.models.load import Model

    tokenizer = byte.ByteTokenizer()
    config = dataclasses.replace(tiny[family], vocab_size=tokenizer.vocab_size)
    structure, params = build(config, compute)
    embedder = Embedder(Model(config, compute, structure, params, 0), tokenizer, 2, 20)
    texts = ["a river", "stone", "blue stone and sun"]
    found = embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    other = Embedder(Model(config, compute, structure, params, 0), tokenizer, 1, 24)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(other.embed([text])[0], vector, atol=2e-5)


def test_a_model_that_embeds_nothing_is_refused(tiny, build, compute):
    import dataclasses

    import jax

    from jaxllm.data.tokenizers import byte
    from jaxllm.models.load import Model

    tokenizer = byte.ByteTokenizer()
    config = dataclasses.replace(tiny["llama"], vocab_size=tokenizer.vocab_size)
    structure, params = build(config, compute)
    broken = Model(config, compute, structure, jax.tree.map(lambda x: x * np.nan, params), 0)
    with pytest.raises(UserError, match="embeddings are not numbers"):
        Embedder(broken, tokenizer, 2, 20).embed(["a river"])
    with pytest.raises(UserError, match="--retriever=nowhere is neither bm25 nor a model"):
        retriever("nowhere", 4, make_display())


def test_the_search_is_exact(monkeypatch):
    monkeypatch.setattr(embeddings, "AT_ONCE", 50)
    rng = np.random.default_rng(0)
    vectors = {str(i): rng.normal(size=8).astype(np.float32) for i in range(60)}

    class Fixed:
        def embed(self, texts):
            return np.stack([vectors[text] for text in texts])

    texts, queries = [str(i) for i in range(40)], [str(i) for i in range(40, 60)]
    found = Embedded(texts, Fixed()).rank(queries, 5)
    for query, ranked in zip(queries, found, strict=True):
        scores = {i: float(vectors[query] @ vectors[str(i)]) for i in range(40)}
        assert [place for place, _ in ranked] == sorted(scores, key=lambda i: -scores[i])[:5]
        assert [score for _, score in ranked] == pytest.approx([scores[p] for p, _ in ranked])
    assert len(Embedded(texts[:3], Fixed()).rank(queries[:1], 5)[0]) == 3


def test_a_text_is_likest_to_itself(bert, tmp_path):
    lines = ["river stone blue", "garden night open", "letter sun walk"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in lines))
    make = retriever(str(bert[0]), 2, make_display())
    passages = Passages(str(tmp_path), make)
    assert [found[0] for found in passages.likest(lines, 2)] == lines
    assert retriever("bm25", 2, make_display()) is retriever("", 2, make_display()) is Bm25


def test_passages_and_similar_examples_by_embeddings(bert, llama, benchmarks, tmp_path):
    pytest.importorskip("lm_eval")
    lines = ["river stone blue", "garden night open", "letter sun walk"]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in lines))
    name = f"{llama} + 2-shot similar + retrieval"
    assert main([
        "eval", f"--model={name}", "--tasks=local_piqa", f"--task_data={benchmarks}",
        f"--retrieve_from={tmp_path / 'notes.jsonl'}", "--passages=1", f"--retriever={bert[0]}",
        f"--output={tmp_path / 'out'}",
    ]) == 0
    file = next((tmp_path / "out").iterdir()) / "samples_local_piqa.jsonl"
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    goals = [sample["doc"]["goal"] for sample in samples]
    embed = Embedder.open(str(bert[0]), 2, print).embed
    questions = embed([f"Question: {goal}\nAnswer:" for goal in goals])
    to_lines, to_others = questions @ embed(lines).T, questions @ questions.T
    for place, sample in enumerate(samples):
        prompt = sample["arguments"][0][0]
        likest = lines[int(np.argmax(to_lines[place]))]
        assert prompt.startswith(likest if to_lines[place].max() > 0 else "Question")
        shown = [part.split("\nAnswer:")[0] for part in prompt.split("Question: ")[1:-1]]
        order = [i for i in np.argsort(-to_others[place]) if i != place][:2]
        assert shown == [goals[i] for i in order[::-1]]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model=LLAMA", "--retriever=bm25"], "--retriever=bm25 has no effect"),
    (["--model=LLAMA + 2-shot similar", "--retriever=nowhere"], "there is no nowhere"),
    (["--model=LLAMA", "--passages=2"], "--passages=2 is only read with --retrieve_from"),
    (["--model=LLAMA", "--passages=3"], "--passages=3 is only read with --retrieve_from"),
])
def test_mistakes_are_named(llama, benchmarks, arguments, message):
    pytest.importorskip("lm_eval")
    from jaxllm.cli import eval as verb

    given = [argument.replace("LLAMA", str(llama)) for argument in arguments]
    with pytest.raises(UserError, match=message):
        verb.main([*given, "--tasks=local_piqa", f"--task_data={benchmarks}"])
