"""Tokenizers: exact round trips, determinism, saving, and text that arrives in pieces."""

import json
import pickle
import random

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.data.tokenizers import StreamDecoder, byte, char, sentencepiece
from jaxllm.samples import sample

TEXTS = [
    "", " ", "a  b", "\ttab\n\n  indented\n", "trailing  ", "emoji 😀 👩‍👩‍👧 flags 🇪🇺",
    "漢字かな交じり",
    "naïve café, ελληνικά, עברית", "<s></s><unk><0x0A>", "\r\nWindows\r\n", "1234567 = 1,234,567",
    "\x00\x01 control", "one\u00a0two\u3000three",
]
ALPHABET = "ab  \n\t.,é漢😀\u0301\u200d0123456789<|>_"


@pytest.fixture(scope="module")
def corpus():
    return (sample("tinyshakespeare") / "input.txt").read_text()[:60_000].split("\n\n")


def train(texts, model_type="bpe", vocab_size=400, **options):
    settings = {"character_coverage": 0.9995, "user_symbols": (), **options}
    return sentencepiece.train(texts, vocab_size=vocab_size, model_type=model_type, **settings)


@pytest.fixture(scope="module", params=["bpe", "unigram", "byte", "huggingface"])
def tokenizer(request, corpus, tmp_path_factory):
    if request.param == "byte":
        return byte.ByteTokenizer()
    if request.param == "huggingface":
        return tokenizers.load(huggingface_folder(tmp_path_factory.mktemp("hf"), corpus))
    return train(corpus, request.param)


def huggingface_folder(folder, corpus):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "<pad>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


def random_texts(seed, count=200):
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(0, 60))) for _ in range(count)]


def test_round_trip_is_exact(tokenizer):
    for text in TEXTS + random_texts(0):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.vocab_size for token in ids)


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.hash, again.kind, again.vocab_size) == (
        tokenizer.hash, tokenizer.kind, tokenizer.vocab_size)
    assert (again.bos_id, again.eos_id, again.pad_id, again.unk_id) == (
        tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_special_tokens_have_no_text(tokenizer):
    assert tokenizer.eos_id is not None
    assert tokenizer.decode([tokenizer.eos_id, *tokenizer.encode("ab"), tokenizer.eos_id]) == "ab"


def test_streamed_text_is_the_whole_text_and_never_half_a_character(tokenizer):
    for text in [*TEXTS, "😀" * 100, "漢" * 100, "word " * 100, *random_texts(1, 50)]:
        decoder, parts = StreamDecoder(tokenizer), []
        for token in tokenizer.encode(text):
            parts.append(decoder.push([token]))
            assert "\ufffd" not in parts[-1]
        parts.append(decoder.flush())
        assert "".join(parts) == text


def test_streamed_garbage_is_what_decoding_at_once_gives(tokenizer):
    rng = random.Random(2)
    for _ in range(50):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(1, 100))]
        decoder = StreamDecoder(tokenizer)
        text = "".join([*(decoder.push([token]) for token in ids), decoder.flush()])
        assert text == tokenizer.decode(ids)


@pytest.mark.parametrize("model_type", sentencepiece.MODEL_TYPES)
def test_training_is_deterministic(corpus, model_type):
    assert train(corpus, model_type).hash == train(list(corpus), model_type).hash
    assert train(corpus, model_type).hash != train(corpus[:-20], model_type).hash


@pytest.mark.parametrize("model_type", sentencepiece.MODEL_TYPES)
def test_too_large_a_vocabulary_names_one_that_works(corpus, model_type):
    with pytest.raises(UserError, match=r"vocab_size=30000 is too large.*=(\d+)") as error:
        train(corpus[:40], model_type, 30_000)
    works = int(str(error.value).split("--config.tokenizer.vocab_size=")[1].split(",")[0])
    assert train(corpus[:40], model_type, works).vocab_size == works


def test_too_small_a_vocabulary_names_what_is_needed(corpus):
    with pytest.raises(UserError, match=r"vocab_size=262 is too small.*more than (\d+)") as error:
        train(corpus, vocab_size=262)
    needed = int(str(error.value).split("take ")[1].split(".")[0])
    assert train(corpus, vocab_size=needed + 1).vocab_size == needed + 1


def test_user_symbols_are_one_token(corpus):
    tokenizer = train(corpus, user_symbols=("<|user|>", "<|end|>"))
    ids = tokenizer.encode("<|user|>Hello<|end|>")
    assert tokenizer.decode(ids) == "<|user|>Hello<|end|>"
    assert [tokenizer.token_text(i) for i in (ids[0], ids[-1])] == ["<|user|>", "<|end|>"]


SPECIAL = {"mask": True, "sentinels": 100}


@pytest.fixture(params=["bpe", "unigram", "byte", "char"])
def special(request, corpus):
    """A tokenizer with a mask token and T5's sentinels."""
    if request.param == "byte":
        return byte.ByteTokenizer(**SPECIAL)
    if request.param == "char":
        return char.train([*corpus, *TEXTS, "<mask><extra_id_0>"], end_of_text=True, **SPECIAL)
    return train(corpus, request.param, 500, **SPECIAL)


def test_a_mask_and_sentinels_which_no_text_makes(special, tmp_path):
    last = special.vocab_size - 1
    assert special.sentinel_ids == tuple(range(last, last - 100, -1))  # as T5: <extra_id_0> last
    assert special.mask_id is not None and special.special_ids >= {special.mask_id, last}
    for text in ["<mask><extra_id_0>", *TEXTS]:
        ids = special.encode(text)
        assert special.decode(ids) == text
        assert not special.special_ids & set(ids)
    assert special.token_text(last) == "<extra_id_0>"
    assert special.token_text(special.mask_id) == "<mask>"
    assert special.decode([special.mask_id, *special.sentinel_ids]) == ""
    special.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.hash, again.special_tokens()) == (special.hash, special.special_tokens())
    saved = json.loads((tmp_path / "jaxllm_tokenizer.json").read_text())
    assert (saved["mask_id"], saved["sentinel_ids"][0]) == (special.mask_id, last)
    assert pickle.loads(pickle.dumps(special.special_tokens())) == special.special_tokens()


def test_the_hash_tells_special_tokens_apart(corpus):
    assert len({byte.ByteTokenizer(mask, n).hash for mask in (0, 1) for n in (0, 1, 2)}) == 6
    hashes = {char.train(corpus, end_of_text=True, mask=m, sentinels=n).hash
              for m in (False, True) for n in (0, 3)}
    assert len(hashes) == 4
    assert train(corpus).hash != train(corpus, mask=True).hash


def test_what_wraps_a_text_is_what_there_is(corpus):
    plain, masked = byte.ByteTokenizer(), byte.ByteTokenizer(mask=True)
    spans = byte.ByteTokenizer(sentinels=2)
    bos, eos = plain.bos_id, plain.eos_id
    assert plain.with_special_tokens([1], [2]) == ([1, 2], [0, 1])
    assert masked.with_special_tokens([1]) == ([bos, 1, eos], [0, 0, 0])
    assert masked.with_special_tokens([1], [2]) == ([bos, 1, eos, 2, eos], [0, 0, 0, 1, 1])
    assert spans.with_special_tokens([1], [2]) == ([1, eos, 2, eos], [0, 0, 1, 1])
    assert (plain.cls_id, plain.special_tokens().cls_id) == (None, bos)
    assert plain.special_tokens().sep_id == eos


def test_sentinels_count_in_the_vocabulary(corpus):
    with pytest.raises(UserError, match=r"too large.*=(\d+)") as error:
        train(corpus[:40], vocab_size=30_000, sentinels=50)
    works = int(str(error.value).split("--config.tokenizer.vocab_size=")[1].split(",")[0])
    assert train(corpus[:40], vocab_size=works, sentinels=50).vocab_size == works
    with pytest.raises(UserError, match=r"too small.*more than (\d+)") as error:
        train(corpus, vocab_size=330, sentinels=50)
    needed = int(str(error.value).split("take ")[1].split(".")[0])
    assert train(corpus, vocab_size=needed + 1, sentinels=50).vocab_size == needed + 1


def test_words_and_sentences(tokenizer):
    ids = tokenizer.encode("the king! And\nso. No")
    starts, ends = tokenizer.word_starts(), tokenizer.sentence_ends()
    assert starts.dtype == bool and starts.shape == ends.shape == (tokenizer.vocab_size,)
    assert tokenizer.word_starts() is starts
    words = "".join("|" * bool(starts[i]) + tokenizer.decode([i]) for i in ids)
    assert words == "the| king!| And|\nso.| No"
    closed = "".join(tokenizer.decode([i]) + "|" * bool(ends[i]) for i in ids)
    assert closed == "the king!| And\n|so.| No"
    assert ends[tokenizer.eos_id] and starts[tokenizer.eos_id]


def test_a_folder_of_the_first_version_is_read(tmp_path):
    (tmp_path / "bytes.json").write_text('{"bytes": 256}\n')
    (tmp_path / "jaxllm_tokenizer.json").write_text(json.dumps({
        "kind": "byte", "vocab_size": 259, "bos_id": 256, "eos_id": 257, "pad_id": 258,
        "unk_id": None,
        "hash": "a8f99c9179d31465c421af6af8530f0791f63590f93777cc0980e434edeeb595"}))
    assert tokenizers.load(tmp_path).vocab_size == 259


def test_char_ids_are_sorted_characters():
    text = (sample("tinyshakespeare") / "input.txt").read_text()
    tokenizer = char.train([text], end_of_text=False)
    table = {c: i for i, c in enumerate(sorted(set(text)))}  # nanoGPT's own
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode(text[:2000]) == [table[c] for c in text[:2000]]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_refuses_a_character_it_never_saw():
    tokenizer = char.train(["abc"], end_of_text=True)
    assert tokenizer.decode([*tokenizer.encode("cab"), tokenizer.eos_id]) == "cab"
    for bad in ("axb", "a漢", "a😀"):
        with pytest.raises(UserError, match=r"place 1"):
            tokenizer.encode(bad)


def test_a_changed_or_missing_tokenizer_is_refused(corpus, tmp_path):
    train(corpus).save(tmp_path)
    train(corpus[:50], vocab_size=330).save(tmp_path / "two")
    (tmp_path / "tokenizer.model").write_bytes((tmp_path / "two/tokenizer.model").read_bytes())
    with pytest.raises(UserError, match=r"was changed after it was saved"):
        tokenizers.load(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "two").rename(tmp_path / "run/tokenizer")
    with pytest.raises(UserError, match=r"holds no tokenizer.*Did you mean .*run/tokenizer"):
        tokenizers.load(tmp_path / "run")


@pytest.mark.parametrize(("file", "content"), [
    ("jaxllm_tokenizer.json", b"{"), ("jaxllm_tokenizer.json", b"[]"),
    ("jaxllm_tokenizer.json", b'{"kind": "char"}'),
    ("characters.json", b"{"), ("characters.json", b"{}"),
    ("characters.json", b'{"characters": "", "end_of_text": true}'), ("characters.json", None),
    ("tokenizer.model", b"no model"), ("tokenizer.model", None),
    ("tokenizer.json", b"{"), ("tokenizer.json", None),
])
def test_a_damaged_tokenizer_is_named(corpus, tmp_path, file, content):
    if file == "tokenizer.json":
        saved = tokenizers.load(huggingface_folder(tmp_path, corpus))
    else:
        saved = train(corpus) if file == "tokenizer.model" else char.train(corpus, end_of_text=True)
    saved.save(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}.*Copy") as error:
        tokenizers.load(tmp_path)
    assert "\n" not in str(error.value)


def test_kinds_are_the_files():
    assert tokenizers.kinds() == ["byte", "char", "huggingface", "sentencepiece"]
    with pytest.raises(UserError, match=r"sentencepiece"):
        tokenizers.kind_module("sentencepeice")
