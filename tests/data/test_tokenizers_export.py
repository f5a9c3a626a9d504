"""Tokenizers trained here, read by transformers: the same ids, texts and special tokens."""

import json
import random

import pytest

from jaxllm.data import tokenizers
from jaxllm.data.tokenizers import StreamDecoder, byte, char, sentencepiece
from jaxllm.data.tokenizers.export import export_files
from jaxllm.samples import sample

from .test_tokenizers_huggingface import ROLES, TEXTS, random_texts

SPECIAL = {"mask": True, "sentinels": 5}


@pytest.fixture(scope="module")
def corpus():
    return (sample("tinyshakespeare") / "input.txt").read_text()[:100_000].split("\n\n")


def trained(corpus, name):
    kind, _, special = name.partition(" ")
    options = SPECIAL if special else {}
    if kind == "byte":
        return byte.ByteTokenizer(**options)
    if kind == "char":
        return char.train([*corpus, *TEXTS, *random_texts(0)], end_of_text=True, **options)
    extra = [] if special else ["<s> </s> 5 <0x0A> <mask>", "\t\t        deep"] * 20
    return sentencepiece.train(
        [*corpus, *extra], vocab_size=700 if special else 400, model_type=kind,
        character_coverage=0.9995, user_symbols=("<|user|>", "<|end of|>") if special else (),
        **options,
    )


@pytest.fixture(scope="module", params=[
    "byte", "byte special", "char", "char special", "bpe", "bpe special", "unigram",
    "unigram special",
])
def pair(request, corpus, tmp_path_factory):
    """Our tokenizer, its exported folder, and what transformers reads from it."""
    transformers = pytest.importorskip("transformers")
    ours, folder = trained(corpus, request.param), tmp_path_factory.mktemp("export")
    for name, content in export_files(ours).items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return ours, folder, transformers.AutoTokenizer.from_pretrained(folder)


def texts_for(ours, corpus):
    names = [ours.token_text(token) for token in sorted(ours.special_ids)]
    hard = [f"a{name} {name}b\n{name}" for name in [*names, "<0x0A>", "<0xE6>", "<|user|>"]]
    if ours.kind == "sentencepiece" and ours.mask_id is not None:
        hard += ["a<|end of|>  <|end of|>", " <|end  of|>"]
        assert len(ours.encode("<|end of|>")) == 1
    spaces = [" " * n + "deep" + " " * (n + 1) + "\n" * n + "aaa" * n for n in range(12)]
    texts = [*TEXTS, *random_texts(0), *hard, *spaces, *corpus, "".join(corpus[:60])]
    known = set(ours.characters) if ours.kind == "char" else None
    return [text for text in texts if known is None or known.issuperset(text)]


def test_ids_and_texts_are_the_same(pair, corpus):
    ours, folder, theirs = pair
    texts = texts_for(ours, corpus)
    assert len(texts) > 100
    ids = theirs(texts, add_special_tokens=False)["input_ids"]
    again = tokenizers.load(folder)
    assert again.encode_batch(texts) == ids
    for row, own in zip(ids, ours.encode_batch(texts), strict=True):
        unigram = ours.kind == "sentencepiece" and ours.proto().trainer_spec.model_type == 1
        assert row == own or (unigram and sorted(row) == sorted(own))  # as likely, in another order
    for text, row in zip(texts, ids, strict=True):
        assert theirs.decode(row, skip_special_tokens=True) == again.decode(row) == text
    assert len(theirs) == ours.vocab_size


def test_special_tokens_are_the_same(pair):
    ours, folder, theirs = pair
    again = tokenizers.load(folder)
    for role in ROLES:
        token = getattr(ours, f"{role}_id")
        assert getattr(theirs, f"{role}_token_id") == token
        assert getattr(again, f"{role}_id") == token or token is None
    assert set(theirs.all_special_ids) == ours.special_ids == again.special_ids
    assert again.sentinel_ids == ours.sentinel_ids
    assert theirs.decode(sorted(ours.special_ids), skip_special_tokens=True) == ""
    for texts in (("the king",), ("the king", "and all")):
        ids = [ours.encode(text) for text in texts]
        wrapped = ours.with_special_tokens(*ids)
        assert theirs(*texts)["input_ids"] == wrapped[0]
        assert again.with_special_tokens(*ids) == wrapped


def test_a_run_of_bytes_is_streamed_whole(pair):
    _, folder, _ = pair
    again, rng = tokenizers.load(folder), random.Random(0)
    for _ in range(100):
        row = [rng.randrange(again.vocab_size) for _ in range(rng.randint(1, 80))]
        decoder = StreamDecoder(again)
        text = "".join([*(decoder.push([token]) for token in row), decoder.flush()])
        assert text == again.decode(row)


def test_special_tokens_in_a_text_on_request(pair):
    ours, _, theirs = pair
    if ours.mask_id is not None:
        ids = theirs.encode("a<mask>", add_special_tokens=False, split_special_tokens=False)
        assert ids[-1] == ours.mask_id


@pytest.mark.parametrize("family", [
    "bart", "bert", "bloom", "gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "olmo",
    "olmo2", "phi", "phi3", "qwen3", "roberta", "t5",
])
def test_every_family_reads_it(corpus, tmp_path, family):
    transformers = pytest.importorskip("transformers")
    ours = trained(corpus, "bpe special")
    for name, content in export_files(ours).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXTS, add_special_tokens=False)["input_ids"] == ours.encode_batch(TEXTS)
