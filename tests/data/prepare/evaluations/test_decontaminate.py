"""Decontamination: GPT-3's procedure against a plain reference, and the files it reads."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm import samples
from jaxllm.core.errors import UserError
from jaxllm.data.prepare.evaluations import decontaminate
from jaxllm.data.prepare.evaluations.decontaminate import Index, Settings, load
from jaxllm.data.prepare.evaluations.sets import Example, read_examples
from jaxllm.data.prepare.stages.base import Dropped

SMALL = Settings(ngram=5, shortest=3, window=0, least_piece=1)
NUMBERS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen",
]
GPT3 = Settings()


def index(*texts: str | tuple[str, ...], of: Settings = GPT3) -> Index:
    fields = [(text,) if isinstance(text, str) else text for text in texts]
    return Index(of, (Example("set", i, f) for i, f in enumerate(fields)))


def plain(examples: list[tuple[str, ...]], of: Settings) -> dict[tuple[str, ...], int]:
    """The n-grams and their numbers, of texts without punctuation: the definition, slowly."""
    found: dict[tuple[str, ...], int] = {}
    for fields in examples:
        short = [f.split() for f in fields if len(f.split()) < of.ngram and len(fields) > 1]
        for words in [" ".join(fields).split(), *short]:
            n = min(of.ngram, len(words))
            for i in range(len(words) - n + 1 if n >= of.shortest else 0):
                found.setdefault(tuple(words[i:i + n]), len(found))
    return found


few_words = st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.lists(few_words, max_size=3).map(tuple), max_size=4), few_words)
def test_hits_are_those_of_the_definition(examples, text):
    expected = plain(examples, SMALL)
    words = text.split()
    held = {
        expected[gram] for n in range(3, 6) for i in range(len(words) - n + 1)
        if (gram := tuple(words[i:i + n])) in expected
    }
    built = index(*examples, of=SMALL)
    assert len(built) == len(expected)
    assert built.hits(text) == tuple(sorted(held))
    owners = {i for i, fields in enumerate(examples) for gram in plain([fields], SMALL)
              if expected[gram] in held}
    assert built.overlapped(held) == [("set", i) for i in sorted(owners)]


words = st.text("abcdefghij", min_size=1, max_size=7)
dressed = st.tuples(
    st.sampled_from(["", "(", "“", "—"]), st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["", ",", ".", "!?", "’", ")"]),
    st.sampled_from([" ", "\n", "  ", "\u00a0", " - "]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(words, min_size=13, max_size=40), st.lists(words, max_size=150),
    st.lists(words, max_size=150), st.data(),
)
def test_planted_overlap_is_found_and_removed(example, before, after, data):
    """13 words of an example, whatever their case and punctuation, between other words."""
    built = index(" ".join(example))
    at = data.draw(st.integers(0, len(example) - 13))
    dress = data.draw(st.lists(dressed, min_size=13, max_size=13))
    planted = "".join(
        f"{left}{case(word)}{right}{space}"
        for word, (left, case, right, space) in zip(example[at:at + 13], dress, strict=True)
    )
    text = " ".join([*before, planted, *after])
    (number,) = built.hits(planted)
    assert built.hits(" ".join(example[at:at + 13])) == (number,)
    assert number in built.hits(text)
    assert built.overlapped(built.hits(text)) == [("set", 0)]
    cleaned = built.clean(text)
    assert cleaned != [text]
    for piece in [] if isinstance(cleaned, Dropped) else cleaned:
        assert built.hits(piece) == () and piece in text and len(piece) >= 200


@settings(deadline=None)
@given(st.text(st.sampled_from("ab'-—.,’ \n\t\u00a0\u0301कि٣½ΣİǅＡ\u200d\x1c_"), max_size=60))
def test_grams_lie_where_their_spans_are(text):
    grams, spans = decontaminate._grams(text), decontaminate._spans(text)
    assert len(grams) == len(spans)
    for gram, (start, end) in zip(grams, spans, strict=True):
        assert len(decontaminate._grams(text[start:end])) == 1 and gram.strip()


def test_what_a_word_is():
    built = index("Don't stop; the 3 + 4 sum — it's “seven” (7), café and so on here")
    same = "DON’T  stop\nthe 3 4 sum its seven 7 cafe\u0301 and so on, here"
    assert built.hits(same) == tuple(range(len(built))) == (0, 1)
    assert built.hits("dont stop the 34 sum its seven 7 café and so on here") == ()


def test_twelve_words_of_a_longer_example_are_no_overlap():
    built = index(" ".join(NUMBERS))
    assert built.hits(" ".join(NUMBERS[:12])) == ()
    assert built.hits(" ".join(NUMBERS)) == (0,)


@pytest.mark.parametrize("n, held", [(7, 0), (8, 1), (12, 1)])
def test_short_examples_count_whole_from_eight_words_on(n, held):
    built = index(" ".join(NUMBERS[:n]))
    assert len(built) == len(built.hits(" ".join(NUMBERS))) == held
    assert built.sets == (decontaminate.SetSize("set", 1, 1 - held),)
    assert built.hits(" ".join(NUMBERS[:n - 1])) == ()


def test_short_fields_count_alone():
    built = index((" ".join(NUMBERS[:9]), "a choice", "another choice here"))
    assert len(built.hits("So: " + " ".join(NUMBERS[:9]) + " because of that.")) == 1


def filler(characters: int, name: str) -> str:
    """Words that are in no other filler, exactly as long as asked for."""
    text = " ".join(f"{name}{i:03d}" for i in range(characters // 4))[:characters - 1]
    return text[:-1] + "xx" if text.endswith(" ") else text + "x"


def test_two_hundred_characters_go_on_each_side():
    built, shared = index(" ".join(NUMBERS)), " ".join(NUMBERS)
    before, after = filler(1000, "b"), filler(900, "a")
    first, second = built.clean(f"{before} {shared} {after}")
    assert before.startswith(first) and after.endswith(second)
    assert 800 - 5 < len(first) <= 800 and 700 - 5 < len(second) <= 700  # whole words of 4
    assert {*first.split()} <= {*before.split()} and {*second.split()} <= {*after.split()}


def test_pieces_under_two_hundred_characters_go():
    built, shared = index(" ".join(NUMBERS)), " ".join(NUMBERS)
    text = f"{filler(380, 'b')} {shared} {filler(500, 'a')}"
    assert len(built.clean(text)) == 1
    assert built.clean(f"{filler(380, 'b')} {shared}") == Dropped("contaminated")
    assert built.clean(shared) == Dropped("contaminated")


@pytest.mark.parametrize("matches, pieces", [(9, 10), (10, None)])
def test_documents_in_over_ten_pieces_are_dropped(matches, pieces):
    built, shared = index(" ".join(NUMBERS)), " ".join(NUMBERS)
    parts = [filler(1000, chr(97 + i)) for i in range(matches + 1)]
    cleaned = built.clean(f" {shared} ".join(parts))
    assert cleaned == Dropped("contaminated") if pieces is None else len(cleaned) == pieces


def test_ngrams_of_many_documents_are_ignored():
    built = index(" ".join(NUMBERS), "a b c d e f g h i j k l m")
    ignored = built.ignored({0: 11, 1: 10})
    assert ignored == {0}
    common = f"{filler(300, 'x')} {' '.join(NUMBERS)}"
    assert built.clean(common, ignored) == [common] != built.clean(common)
    assert built.clean("a b c d e f g h i j k l m", ignored) == Dropped("contaminated")


def test_clean_text_is_untouched():
    """No sentence of Shakespeare's or the Federal Reserve's is in the other's texts."""
    fomc = [file.read_text("utf-8") for file in sorted(samples.sample("fomc").glob("*.txt"))]
    shakespeare = (samples.sample("tinyshakespeare") / "input.txt").read_text("utf-8")
    built = index(*shakespeare.split("\n\n"))
    assert all(built.clean(text) == [text] for text in fomc)
    assert built.hits(shakespeare) == tuple(range(len(built)))


def test_equal_hashes_of_different_ngrams_are_told_apart(monkeypatch):
    """With hashes of 6 bits nearly everything collides in the text, nothing is found wrongly."""
    values = decontaminate._word_values

    def small(vocabulary, seed):
        return values(vocabulary, seed) & decontaminate.np.uint64(63)

    monkeypatch.setattr(decontaminate, "_word_values", small)
    monkeypatch.setattr(decontaminate, "_POWERS", decontaminate._POWERS * 0 + 1)
    built = index("a b c d e", of=SMALL)
    assert built.hits("a b c d e") == (0,)
    assert built.hits("b a c d e") == built.hits("e d c b a") == ()


def test_the_index_is_equal_wherever_it_is_built(tmp_path):
    (tmp_path / "one").mkdir()
    for folder in (tmp_path, tmp_path / "one"):
        (folder / "set.jsonl").write_text(json.dumps({"text": " ".join(NUMBERS)}) + "\n")
    first, second = (load(Settings((str(f / "set.jsonl"),))) for f in (tmp_path, tmp_path / "one"))
    assert first.digest == second.digest != index(" ".join([*NUMBERS[1:], "x"])).digest
    assert index("a b c d e f g h", "i j k l m n o p").digest != index(
        "a b c d e f g h i j k l m n o p").digest


HOSTILE = (
    "one two three four five six seven eight ", "one ", "- ", "a-", "x" * 997 + " ", "’", "é, ",
)


@pytest.mark.parametrize("seed", HOSTILE)
def test_time_grows_with_the_text(seed):
    built = index(" ".join(NUMBERS), " ".join(["one"] * 40))

    def seconds(characters: int) -> float:
        text = (seed * (characters // len(seed) + 1))[:characters]
        begin = time.process_time()
        built.clean(text)
        return time.process_time() - begin

    first = min(seconds(10_000) for _ in range(3))
    assert seconds(320_000) < 200 * first + 0.1  # 1024 times would be quadratic


@pytest.mark.parametrize("values, wrong", [
    ({}, "sets is empty"), ({"ngram": 7}, "shortest <= ngram"), ({"ngram": 65}, "<= 64"),
    ({"shortest": 0}, "1 <= shortest"), ({"window": -1}, "window=-1"),
    ({"most_pieces": 0}, "most_pieces=0"), ({"most_documents": 0}, "most_documents=0"),
])
def test_bad_settings(values, wrong):
    with pytest.raises(UserError, match=wrong):
        load(Settings(**({"sets": ("x",)} if values else {}) | values))


FILES = {  # name -> content and the examples' fields
    "a.jsonl": ('{"q": "What?", "n": 1, "c": ["x", {"d": "y"}]}\n\n{"q": "Who?"}\n',
                [("What?", "x", "y"), ("Who?",)]),
    "a.json": ('[{"q": "What?"}, {"q": "Who?"}]', [("What?",), ("Who?",)]),
    "lines.json": ('{"q": "What?"}\n{"q": "Who?"}', [("What?",), ("Who?",)]),
    "bbh.json": ('{"canary": "no", "examples": [{"input": "i", "target": "t"}]}', [("i", "t")]),
    "by_name.json": ('{"17": {"QUESTION": "q", "CONTEXTS": ["a", "b"]}}', [("q", "a", "b")]),
    "a.csv": ('question,choice\n"Which, then?",this\n', [("Which, then?", "this")]),
    "bare.csv": ("a first row that is an example by its length,x\nsecond,y\n",
                 [("a first row that is an example by its length", "x"), ("second", "y")]),
    "a.tsv": ('id\tsentence\n1\tthe "quoted\n2\tthing" said\n',
              [("1", 'the "quoted'), ("2", 'thing" said')]),
    "a.xml": ('<?xml version="1.0"?>\n<!DOCTYPE c SYSTEM "c.dtd">\n<c><item><p>P.</p><a>A.</a>'
              "</item><item><p>Q.</p></item></c>", [("P.", "A."), ("Q.",)]),
    "a.conll": ("Rick\tB-x\nran\tO\n\nNo\tO\n", [("Rick ran",), ("No",)]),
    "a.txt": ("One.\nTwo.\n", [("One.",), ("Two.",)]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_formats(tmp_path, name, packed):
    content, fields = FILES[name]
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    examples = list(read_examples(str(file)))
    assert examples == [Example(str(file), i, f) for i, f in enumerate(fields)]


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"q": ["What?"], "c": [["x", "y"]], "n": [1]})
    parquet.write_table(table, tmp_path / "a.parquet")
    (example,) = read_examples(str(tmp_path / "a.parquet"))
    assert example.fields == ("What?", "x", "y")


def test_a_folder_of_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl").write_text('{"q": "B"}')
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "README").write_text("not data")
    assert list(read_examples(f"{tmp_path}/")) == [
        Example(f"{tmp_path}/a.txt", 0, ("A",)), Example(f"{tmp_path}/in/b.jsonl", 0, ("B",))]


TASK = """
task: mine
include: _base.yaml
dataset_kwargs:
  data_files: {train: train.jsonl, test: ["part*.jsonl"]}
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: !function helpers.target
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "_base.yaml").write_text("dataset_path: json\ntest_split: none\n")
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "group.yaml").write_text("group: all\ntask: [mine]\n")
    (tmp_path / "part1.jsonl").write_text('{"question": "One?"}\n')
    (tmp_path / "part2.jsonl").write_text('{"question": "Two?"}\n')
    return tmp_path


def test_task_files(task):
    expected = [Example("mine", 0, ("One?",)), Example("mine", 0, ("Two?",))]
    assert list(read_examples(str(task / "mine.yaml"))) == expected
    assert list(read_examples(str(task))) == expected  # a group names no data of its own


def test_a_task_over_a_folder(task):
    (task / "data").mkdir()
    for split in ("train", "dev"):
        (task / "data" / f"{split}.csv").write_text(f"q,a\n{split}?,x\n")
    (task / "own.yaml").write_text("task: own\ndataset_path: data\nvalidation_split: validation\n")
    assert [e.fields for e in read_examples(str(task / "own.yaml"))] == [("dev?", "x")]


@pytest.mark.parametrize("yaml, wrong", [
    ("dataset_path: openai/gsm8k\ntest_split: test", "no local file or folder"),
    ("dataset_path: openai/gsm8k\ntest_split: test\ndataset_kwargs: {data_files: x}", "not local"),
    ("dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {dev: x}}", "no 'test'"),
    ("dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: no.json}}",
     "neither in the current folder"),
    ("dataset_path: json\ntest_split: test\ndataset_kwargs: [data]", "is no mapping"),
    ("dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: 1}}",
     "has 1, which is no file's name"),
    ("dataset_path: json", "neither test_split nor"), ("task: [a]", "group of tasks"),
    ("a: [", "no YAML"), ("just text", "no settings"), ("include: no.yaml", "include: no.yaml"),
    ("include: bad.yaml", "includes itself"),
    ("dataset_path: json\ntest_split: t\ndataset_kwargs: {data_files: {t: part1.jsonl}, field: x}",
     "no field 'x'"),
])
def test_bad_task_files(task, yaml, wrong):
    (task / "bad.yaml").write_text(yaml)
    with pytest.raises(UserError, match=wrong):
        list(read_examples(str(task / "bad.yaml")))


@pytest.mark.parametrize("name, content, wrong", [
    ("a.jsonl", b'{"q": "x"}\n{"q": \n', "a.jsonl:2'.*no JSON"), ("a.txt", b"\xff\xfe", "no UTF-8"),
    # No time in the gzip header: both test processes must read the same parameters.
    ("a.jsonl.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "Fetch the file"),
    ("a.gz", b"x", "not known"),
    ("a.bin", b"x", "not known"), ("a.parquet", b"PAR1", "Fetch the file"),
    ("a.xml", b"<a>", "no XML"), ("a.jsonl", b"\n", "no text"),
    ("a.json", b'{"n": 1}', "no text"), ("a.jsonl", b"[" * 200_000, "nested too deep"),
    ("a.jsonl", b'{"q": "x"}\n{"n": ' + b"1" * 5000 + b"}\n", "a.jsonl:2'.*no JSON.*5000 digits"),
])
def test_files_that_cannot_be_read(tmp_path, name, content, wrong):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"decontaminate.sets: .*{wrong}"):
        load(Settings((str(tmp_path / name),)))


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "mmlu.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no such file.*there are: mmlu\.jsonl"):
        load(Settings((str(tmp_path / "mmlu.json"),)))
