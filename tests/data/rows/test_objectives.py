"""The batches of the objectives of rows, place by place."""

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig, MaskedConfig
from jaxllm.data.objectives import make_objective
from jaxllm.data.rows.formats import Chat, Labelled, Pair, Tagged, Text
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.row import BadRow
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.data.tokenizers.char import CharTokenizer

BYTES = ByteTokenizer()
WRAPPING = ByteTokenizer(mask=True)  # <s> text </s>
EOS, BOS = BYTES.eos_id, BYTES.bos_id


def make(name, length=12, tokenizer=BYTES, **fields):
    return make_objective(DataConfig(length, objective=name, **fields), lambda: tokenizer, -1)


def encode(objective, *items, labels=None):
    labels = labels or Labels(())
    for item in items:
        labels.learn(item.tags if isinstance(item, Tagged) else
                     (item.label,) if isinstance(item, Labelled) else ())
    found = objective.encode([(item, f"f, row {n}") for n, item in enumerate(items, 1)], labels)
    for one in found:
        if isinstance(one, BadRow):
            raise one
    return found


def check(batch, **expected):
    for name, values in expected.items():
        assert getattr(batch, name).tolist() == values, name
    assert all(x is None or x.dtype == (np.float32 if name == "weights" else np.int32)
               for name, x in zip(Batch._fields, batch, strict=True))


def test_packed_examples_side_by_side():
    sft = make("sft")
    pack = encode(sft, Pair("ab", "cd"), Text("xyz"))
    a, b, c, d, x, y, z = b"abcdxyz"
    assert [sft.size(one) for one in pack] == [4, 3]
    check(
        sft.example(pack, None),
        inputs=[a, b, c, d, x, y, z, 0, 0, 0, 0, 0],
        targets=[b, c, d, EOS, y, z, EOS, 0, 0, 0, 0, 0],
        weights=[0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        positions=[0, 1, 2, 3, 0, 1, 2, 0, 0, 0, 0, 0],
        segment_ids=[1, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0],
    )
    assert make("sft").joined(batch := sft.example(pack, None)) is batch
    everything = encode(make("sft", completion_only_loss=False), Pair("ab", "cd"))
    assert sft.example(everything, None).weights.tolist()[:5] == [1, 1, 1, 1, 0]


def test_an_example_may_have_a_token_more_than_a_row_and_is_cut_behind_it():
    sft = make("sft", 4)
    fits, long, lost = encode(sft, Pair("ab", "cd"), Pair("ab", "cdef"), Pair("abcdef", "g"))
    assert [sft.size(one) for one in (fits, long, lost)] == [4, 6, 7]
    assert sft.cut(long)["ids"].tolist() == list(b"abcde") and sft.cut(lost) is None
    assert sft.example([sft.cut(long)], None).weights.tolist() == [0, 1, 1, 1]


def test_a_pair():
    tokenizer = ByteTokenizer(mask=False, sentinels=2)  # text </s>, as T5's
    objective = make("seq2seq", 6, tokenizer, target_length=4)
    pack = encode(objective, Pair("abc", "xy"))
    a, b, c, x, y = b"abcxy"
    start = tokenizer.pad_id
    check(
        objective.example(pack, None),
        encoder_inputs=[a, b, c, EOS, 0, 0], encoder_segment_ids=[1, 1, 1, 1, 0, 0],
        encoder_positions=[0, 1, 2, 3, 0, 0], inputs=[start, x, y, 0], targets=[x, y, EOS, 0],
        weights=[1, 1, 1, 0], positions=[0, 1, 2, 0], segment_ids=[1, 1, 1, 0],
    )
    assert objective.lengths == (4, 6) and objective.stream == "span_corruption"
    long = encode(objective, Pair("abcdefg", "uvwxyz"))[0]
    assert objective.size(long) == 9 and objective.size(pack[0]) == 4
    short = objective.cut(long)
    assert short["source"].tolist() == [*b"abcde", EOS]
    assert short["target"].tolist() == [*b"uvw", EOS]
    bart = make("seq2seq", 8, WRAPPING)
    check(bart.example(encode(bart, Pair("abc", "xy")), None),
          encoder_inputs=[BOS, a, b, c, EOS, 0, 0, 0], targets=[BOS, x, y, EOS, 0, 0, 0, 0])
    assert bart.stream == "denoising"
    plain = make("seq2seq", 8, BYTES)  # nothing is put around a text, but a target ends
    check(plain.example(encode(plain, Pair("abc", "xy")), None),
          encoder_inputs=[a, b, c, 0, 0, 0, 0, 0], targets=[x, y, EOS, 0, 0, 0, 0, 0])


def test_a_label():
    objective = make("classification", 6, WRAPPING)
    first, second = encode(objective, Labelled("ab", "no"), Labelled("c", "yes"))
    check(
        objective.example([second], None), inputs=[BOS, ord("c"), EOS, 0, 0, 0],
        targets=[1, 0, 0, 0, 0, 0], weights=[1, 0, 0, 0, 0, 0], positions=[0, 1, 2, 0, 0, 0],
        segment_ids=[1, 1, 1, 0, 0, 0],
    )
    assert objective.targets_per_row == 1 and objective.size(first) == 4
    long = encode(objective, Labelled("abcdefgh", "no"))[0]
    assert objective.cut(long)["ids"].tolist() == [BOS, *b"abcd", EOS]


def test_tags_at_the_first_token_of_each_word():
    objective = make("token_classification", 12, WRAPPING)
    labels = Labels(("O", "B-x", "I-x"))
    words = Tagged(("ab", "é", "d"), ("B-x", "I-x", "O"))
    one = encode(objective, words, labels=labels)[0]
    check(
        objective.example([one], None), inputs=[BOS, *"ab é d".encode(), EOS, 0, 0, 0],
        targets=[0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        weights=[0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    )
    short = make("token_classification", 6, WRAPPING)
    check(short.example([short.cut(one)], None), weights=[0, 1, 0, 0, 1, 0])
    assert short.cut(one)["ids"][-1] == EOS


def test_first_tokens_are_those_of_transformers(tmp_path):
    """`word_ids` of a BERT tokenizer that is given words."""
    transformers = pytest.importorskip("transformers")
    from jaxllm.data.tokenizers import load

    inner = (f"##{letter}" for letter in "abcdef")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *inner, "'", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    words = ("Abc", "d'e", "zz", "\u200d", "f", "gh.")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        list(words), is_split_into_words=True)
    objective = make("token_classification", 24, load(tmp_path))
    one = encode(objective, Tagged(words, tuple("012345")))[0]
    assert one["ids"].tolist() == theirs["input_ids"]
    ids = theirs.word_ids()
    assert one["first"].tolist() == [
        word is not None and word != ids[n - 1] for n, word in enumerate(ids)]
    assert one["tag"][one["first"]].tolist() == [word for word in (0, 1, 2, 3, 4, 5)
                                                 if word in ids]


@pytest.mark.parametrize(("tags", "good"), [
    (("B-x", "I-x", "I-x", "O", "B-y", "B-y", "I-y"), True), (("NOUN", "VERB"), True),
    (("I-x",), False), (("O", "I-x"), False), (("B-x", "I-y"), False),
])
def test_iob2(tags, good):
    objective = make("token_classification", 64, WRAPPING)
    words = Tagged(("w",) * len(tags), tags)
    if good:
        encode(objective, words)
    else:
        with pytest.raises(BadRow, match=r"in IOB2 an entity begins with 'B-[xy]'"):
            encode(objective, words)


def test_labels_are_sorted_or_given():
    labels = Labels(())
    assert labels.learn(["b", "a"]) and not labels.learn(["a"])
    assert labels.codes(["a", "b"], "f") == [1, 0]
    names, ids = labels.order()
    assert names == ("a", "b") and ids.tolist() == [1, 0]
    numbers = Labels(())
    numbers.learn([10, 9, 2])
    assert numbers.order()[0] == ("2", "9", "10")
    with pytest.raises(BadRow, match=r"f: label 'c' is none that a row that is trained on has"):
        labels.codes(["c"], "f")
    given = Labels(("no", "yes"))
    assert given.codes([1, "no"], "f") == [1, 0] and given.order()[0] == ("no", "yes")
    with pytest.raises(BadRow, match=r"label 'yse' is none that data.labels names. Did you mean"):
        given.codes(["yse"], "f")
    assert given.codes(["1", "0"], "f") == [1, 0]  # a table of text has no numbers
    with pytest.raises(BadRow, match=r"label 2 is none of the 2 that data.labels names"):
        given.codes([2], "f")
    with pytest.raises(UserError, match=r"data.labels names 'a' twice"):
        Labels(("a", "b", "a"))


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("sft", {"block_cross_document_attention": False}, "block_cross_document_attention=False has"),
    ("sft", {"labels": ("a",)}, r"data.labels=\('a',\) has no effect.*'classification' or 'token_"),
    ("classification", {"packing": False}, r"data.packing=False has no effect.* to 'sft'"),
    ("seq2seq", {"chat_template": "chatml"}, "data.chat_template='chatml' has no effect"),
    ("causal", {"assistant_only_loss": True}, "data.assistant_only_loss=True has no effect"),
    ("sft", {"target_length": 4}, "data.target_length=4 has no effect"),
    ("sft", {"masked": MaskedConfig(rate=0.5)}, "data.masked.rate=0.5 has no effect"),
])
def test_options_that_are_not_read(name, fields, message):
    with pytest.raises(UserError, match=message):
        make(name, **fields)


def test_a_tokenizer_without_an_end_of_text_is_refused():
    endless = CharTokenizer("abc", end_of_text=False)
    for name in ("sft", "seq2seq"):
        with pytest.raises(UserError, match=r"needs an end-of-text token.*tokenizer has none"):
            make(name, tokenizer=endless)
    padless = CharTokenizer("abc", end_of_text=True)
    with pytest.raises(UserError, match=r"no padding token.*decoder to start with"):
        make("seq2seq", tokenizer=padless)
    make("classification", tokenizer=endless)


def test_conversations_are_not_for_an_encoder_decoder():
    talk = Chat(({"role": "user", "content": "a"},), ({"role": "assistant", "content": "b"},), None)
    with pytest.raises(BadRow, match="prompt and completion are messages"):
        encode(make("seq2seq", 8, WRAPPING), talk)
