"""`prepare` against plain Python: splits, streams, counts, repeatability, and refusals."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.data.manifest import Amount, read_manifest
from jaxllm.data.prepare.pipeline import prepare
from jaxllm.samples import sample

from .corpora import make_config, quiet, run_prepare, sentences
from .reference import read_stream

ROOT = Path(__file__).parents[2]
LINES = {"input__document": "line", "split__validation_share": 0.2}
BYTES = {"tokenizer__kind": "byte"}


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(sentences(200, 3)) + "\n")
    return file


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*"))
            if f.is_file()}


def documents_of(folder, split):
    """The texts of a split, from its tokens."""
    tokenizer = tokenizers.load(folder / "tokenizer")
    documents = []
    for token, begins in zip(*read_stream(folder, split), strict=True):
        if begins:
            documents.append([])
        documents[-1].append(token)
    return [tokenizer.decode(ids) for ids in documents], documents


@pytest.mark.parametrize("tokenizer", [
    BYTES, {"tokenizer__kind": "char"}, {"tokenizer__vocab_size": 320},
])
def test_every_document_is_in_one_split_whole_and_ends_with_eos(corpus, tmp_path, tokenizer):
    manifest = run_prepare(tmp_path / "out", [corpus], output__block_tokens=64,
                           output__tokens_per_shard=1000, **LINES, **tokenizer)
    eos = tokenizers.load(tmp_path / "out/tokenizer").eos_id
    found = []
    for name, split in manifest.splits.items():
        texts, ids = documents_of(tmp_path / "out", name)
        assert all(row[-1] == eos and eos not in row[:-1] for row in ids)
        assert split.documents == len(texts)
        assert split.characters == sum(map(len, texts))
        assert split.bytes == sum(len(text.encode()) for text in texts)
        assert split.tokens == sum(map(len, ids)) == sum(s.tokens for s in split.shards)
        found.append(texts)
    expected = corpus.read_text().splitlines()
    assert sorted(found[0] + found[1]) == sorted(expected)
    assert not set(found[0]) & set(found[1])
    assert len(manifest.splits["train"].shards) > 1
    assert 0.1 < len(found[1]) / len(expected) < 0.3
    in_order = [text for text in expected if text in set(found[0])]
    assert found[0] == in_order


def test_the_split_of_a_document_depends_on_its_text_alone(corpus, tmp_path):
    run_prepare(tmp_path / "all", [corpus], **LINES, **BYTES)
    half = tmp_path / "half.txt"
    half.write_text("\n".join(reversed(corpus.read_text().splitlines()[:100])))
    run_prepare(tmp_path / "half", [half], **LINES, **BYTES)
    kept = set(half.read_text().splitlines())
    whole = {text for text in documents_of(tmp_path / "all", "validation")[0] if text in kept}
    assert whole == set(documents_of(tmp_path / "half", "validation")[0])


def test_position_split_is_nanogpts(tmp_path):
    manifest = run_prepare(
        tmp_path / "out", ["sample:tinyshakespeare"], split__by="position",
        split__validation_share=0.1, tokenizer__kind="char", output__append_eos=False,
    )
    text = (sample("tinyshakespeare") / "input.txt").read_text()
    table = {c: i for i, c in enumerate(sorted(set(text)))}
    cut = int(len(text) * 0.9)
    for split, part in (("train", text[:cut]), ("validation", text[cut:])):
        tokens, starts = read_stream(tmp_path / "out", split)
        assert tokens == [table[c] for c in part]
        assert starts == [True] + [False] * (len(part) - 1)
    assert manifest.tokenizer.vocab_size == 65


def test_position_split_cuts_one_document_in_two(corpus, tmp_path):
    fields = {**LINES, **BYTES, "split__by": "position", "output__append_eos": False}
    run_prepare(tmp_path / "out", [corpus], **fields)
    expected = corpus.read_text().splitlines()
    whole = "".join(expected)
    train, validation = (documents_of(tmp_path / "out", s)[0] for s in ("train", "validation"))
    assert "".join(train) == whole[: int(len(whole) * 0.8)]
    assert "".join(train + validation) == whole
    assert train[:-1] == expected[: len(train) - 1] and validation[1:] == expected[len(train) :]


def test_same_input_same_bytes(corpus, tmp_path):
    for name in ("one", "two"):
        run_prepare(tmp_path / name, [corpus], tokenizer__vocab_size=320, **LINES)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for file in ("manifest.json", "tokenizer/jaxllm_tokenizer.json"):
        assert file in contents(tmp_path / "one")
    assert not list((tmp_path / "one").glob(".partial*"))


def test_manifest_checksums(corpus, tmp_path):
    manifest = run_prepare(tmp_path / "out", [corpus], **LINES, **BYTES)
    assert read_manifest(tmp_path / "out") == manifest
    for split in manifest.splits.values():
        for shard in split.shards:
            content = (tmp_path / "out" / shard.name).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (
                shard.sha256, shard.bytes)


def test_again_is_nothing_to_do_and_other_settings_are_refused(corpus, tmp_path):
    out = tmp_path / "out"
    run_prepare(out, [corpus], **LINES, **BYTES)
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*")}
    run_prepare(out, [corpus], **LINES, **BYTES)
    assert before == {f: f.stat().st_mtime_ns for f in out.rglob("*")}
    other = {**LINES, "split__validation_share": 0.3}
    with pytest.raises(UserError, match=r"split.validation_share was 0.2 and is 0.3.*--overwrite"):
        run_prepare(out, [corpus], **other, **BYTES)
    manifest = run_prepare(out, [corpus], overwrite=True, **other, **BYTES)
    assert read_manifest(out) == manifest
    corpus.write_text(corpus.read_text() + "more\n")
    with pytest.raises(UserError, match=r"the input was 1 files of .* and is"):
        run_prepare(out, [corpus], **other, **BYTES)


def test_a_manifest_from_before_a_field_was_added_means_its_default(corpus, tmp_path):
    out = tmp_path / "out"
    run_prepare(out, [corpus], **LINES, **BYTES)
    manifest = json.loads((out / "manifest.json").read_text())
    for name in ("mask", "sentinels"):
        del manifest["settings"]["tokenizer"][name]
    (out / "manifest.json").write_text(json.dumps(manifest))
    before = contents(out)
    run_prepare(out, [corpus], **LINES, **BYTES)
    assert contents(out) == before
    with pytest.raises(UserError, match=r"tokenizer.mask was False and is True"):
        run_prepare(out, [corpus], tokenizer__mask=True, **LINES, **BYTES)


@pytest.mark.parametrize("kind", ["sentencepiece", "char", "byte"])
def test_a_mask_token_and_sentinels(corpus, tmp_path, kind):
    fields = {"tokenizer__vocab_size": 340} if kind == "sentencepiece" else {}
    manifest = run_prepare(tmp_path, [corpus], tokenizer__kind=kind, tokenizer__mask=True,
                           tokenizer__sentinels=20, **LINES, **fields)
    tokenizer = tokenizers.load(tmp_path / "tokenizer")
    last = manifest.tokenizer.vocab_size - 1
    assert tokenizer.sentinel_ids == tuple(range(last, last - 20, -1))
    assert tokenizer.mask_id is not None
    assert not (tokenizer.special_ids - {tokenizer.eos_id}) & set(read_stream(tmp_path, "train")[0])


def test_a_hugging_face_folder_is_taken_with_all_its_files(corpus, tmp_path):
    from tokenizers import models

    folder = tmp_path / "bert"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    words += [*letters, *(f"##{letter}" for letter in letters)]
    models.WordPiece({word: i for i, word in enumerate(words)}).save(str(folder))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "pytorch_model.bin").write_text("not the tokenizer's")
    run_prepare(tmp_path / "out", [corpus], tokenizer__path=str(folder), **LINES)
    texts, ids = documents_of(tmp_path / "out", "train")
    assert all(row[-1] == words.index("[SEP]") for row in ids)
    assert set(texts) < {text.replace(" .", ".") for text in corpus.read_text().splitlines()}
    names = {file.name for file in (tmp_path / "out/tokenizer").iterdir()}
    assert names == {"vocab.txt", "tokenizer_config.json", "jaxllm_tokenizer.json"}


def test_an_unfinished_folder_is_not_prepared_and_is_finished(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a user's own data/shakespeare is not looked at
    out = tmp_path / "out"
    run_prepare(out, [corpus], **LINES, **BYTES)
    whole = contents(out)
    (out / "manifest.json").unlink()
    (out / "train-00007-of-00008.array_record").write_text("left over")
    (out / "mine.array_record").write_text("not ours")
    with pytest.raises(UserError, match=r"jaxllm prepare --config=\S+:special --workdir=data/sha"):
        read_manifest("data/shakespeare")
    with pytest.raises(UserError, match=r"holds no prepared data"):
        read_manifest(out)
    run_prepare(out, [corpus], **LINES, **BYTES)
    assert contents(out) == {**whole, "mine.array_record": b"not ours"}


@pytest.mark.parametrize("content", [
    b"{", b"\xff", b"[]", b'{"version": 2}', b'{"version": 2, "splits": []}',
])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/manifest.json is damaged.*--overwrite"):
        read_manifest(tmp_path)


def test_a_manifest_with_a_field_missing_or_unknown(corpus, tmp_path):
    run_prepare(tmp_path, [corpus], **LINES, **BYTES)
    file = tmp_path / "manifest.json"
    whole = json.loads(file.read_text())
    for name in whole:
        file.write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(UserError, match=r"is damaged|was prepared in format None"):
            read_manifest(tmp_path)
    whole["tokenizer"]["new"] = 1
    file.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"is damaged.*new"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_an_edit_that_keeps_the_size_is_noticed(tmp_path, ending):
    for name in ("a", "b"):
        lines = [f"{name}{text}" for text in sentences(40, 5)]
        rows = lines if ending == "txt" else [json.dumps({"text": text}) for text in lines]
        (tmp_path / f"{name}.{ending}").write_bytes(b"\xef\xbb\xbf" + "\n".join(rows).encode())
    files, out = [tmp_path / f"{name}.{ending}" for name in ("a", "b")], tmp_path / "out"
    manifest = run_prepare(out, files, **LINES, **BYTES)
    unit = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert manifest.inputs.content == hashlib.sha256(unit.encode()).hexdigest()
    assert run_prepare(out, files, **LINES, **BYTES) == manifest
    files[1].write_bytes(files[1].read_bytes().replace(b"cat", b"cow", 1))
    with pytest.raises(UserError, match=r"text of the input files was changed.*--overwrite"):
        run_prepare(out, files, **LINES, **BYTES)
    assert run_prepare(out, files, overwrite=True, **LINES, **BYTES).inputs != manifest.inputs


def test_blank_documents_are_dropped_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(
        json.dumps({"text": text}) + "\n" for text in ["", " \n", *sentences(40, 5)]))
    manifest = run_prepare(tmp_path / "out", [tmp_path / "a.jsonl"], **BYTES)
    assert manifest.flow[0].dropped["blank"] == Amount(2, 2, 2)
    assert sum(split.documents for split in manifest.splits.values()) == 40


def test_existing_tokenizer_is_used(corpus, tmp_path):
    run_prepare(tmp_path / "one", [corpus], tokenizer__vocab_size=320, **LINES)
    manifest = run_prepare(tmp_path / "two", ["sample:fomc"],
                           tokenizer__path=str(tmp_path / "one/tokenizer"))
    assert manifest.tokenizer == read_manifest(tmp_path / "one").tokenizer
    texts = [text for s in ("train", "validation") for text in documents_of(tmp_path / "two", s)[0]]
    assert sorted(texts) == sorted(f.read_text() for f in sample("fomc").glob("*.txt"))


def test_tokenizer_sees_the_training_split_alone(tmp_path):
    """A corpus whose last fifth is another alphabet: its characters must not get pieces."""
    (tmp_path / "a.txt").write_text("\n".join(sentences(400, 6)) + "\n" + "жзийк" * 500)
    run_prepare(tmp_path / "out", [tmp_path / "a.txt"], tokenizer__vocab_size=330,
                split__by="position", split__validation_share=0.1)
    tokenizer = tokenizers.load(tmp_path / "out/tokenizer")
    assert len(tokenizer.encode("ж")) == 2  # two bytes


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for count in (4_000, 20_000):
        file = tmp_path / f"{count}.txt"
        with file.open("w") as stream:
            for number in range(count):
                stream.write(f"{number} " + "word " * 60 + "\n")
        tracemalloc.start()
        prepare(make_config([file], input__document="line", **BYTES), tmp_path / str(count),
                quiet(), unit_bytes=2**18)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 1e6


def test_neither_jax_nor_grain_is_imported():
    code = (
        "import sys, tempfile; from tests.data.corpora import run_prepare\n"
        "run_prepare(tempfile.mkdtemp(), ['sample:fomc'], tokenizer__vocab_size=400)\n"
        "from jaxllm.data import tokenizers\n"
        "[tokenizers.kind_module(kind) for kind in tokenizers.kinds()]\n"
        "import jaxllm.data.batch, jaxllm.data.config, jaxllm.data.sources\n"
        "print([m for m in ('jax', 'flax', 'grain', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("fields, expected", [
    ({"tokenizer__vocab_size": 30_000}, r"vocab_size=30000 is too large.*largest that works is"),
    ({"split__validation_share": 1e-9, **BYTES},
     r"leaves the validation split empty\. Set --config\.split\.by=position"),
    ({"split__validation_share": 0.9999999, **BYTES}, "leaves the training split empty"),
    ({"split__by": "position", "split__validation_share": 0.9999999, **BYTES}, "training split"),
])
def test_corpora_that_are_too_small(corpus, tmp_path, fields, expected):
    with pytest.raises(UserError, match=expected):
        run_prepare(tmp_path / "out", [corpus], **{**LINES, **fields})
    assert not (tmp_path / "out/manifest.json").exists()


def test_an_empty_split_says_what_could_not_be_read(tmp_path):
    corpus = tmp_path / "cut.jsonl"
    corpus.write_text('{"text": "one"}\n{"text": "tw')
    with pytest.raises(UserError, match=r"split empty.* 1 record could not be .*cut.jsonl:1: bad_"):
        run_prepare(tmp_path / "out", [corpus], **BYTES)


def test_blank_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n\n")
    with pytest.raises(UserError, match=r"every document is blank"):
        run_prepare(tmp_path / "out", [tmp_path / "a.txt"], **BYTES)


@pytest.mark.parametrize("fields, expected", [
    ({"input__document": "paragraf"}, "Did you mean 'paragraph'"),
    ({"split__by": "doc"}, "split.by='doc' is unknown"),
    ({"split__validation_share": 0.0}, "must lie between 0 and 1"),
    ({"tokenizer__kind": "sentencepeice"}, "Did you mean 'sentencepiece'"),
    ({"tokenizer__kind": "bpe"}, "none of byte, char, sentencepiece: .*model_type='bpe'"),
    ({"tokenizer__kind": "wordpiece"}, "The kinds are byte, char, sentencepiece"),
    ({"tokenizer__kind": "huggingface"}, "cannot be trained here: set tokenizer.path"),
    ({"tokenizer__kind": "char", "tokenizer__vocab_size": 99}, "vocab_size=99 has no effect"),
    ({"tokenizer__path": "t", "tokenizer__vocab_size": 99}, "vocab_size=99 has no effect"),
    ({"tokenizer__path": "t", "tokenizer__mask": True}, "mask=True has no effect"),
    ({"tokenizer__sentinels": -1}, "sentinels=-1 must not be negative"),
    ({"tokenizer__vocab_size": 99, "tokenizer__sentinels": 100}, "leaves nothing for text"),
    ({"tokenizer__character_coverage": 2.0}, "must lie in"),
    ({"tokenizer__user_symbols": ("",)}, r"user_symbols=\('',\) has an empty entry"),
    ({"tokenizer__user_symbols": ("a", "b", "a")}, r"user_symbols=.* names it twice \('a'\)"),
    ({"tokenizer__vocab_size": 10**12}, r"tokenizer\.vocab_size=10+ must lie between"),
    ({"input__max_document_bytes": 10**20}, r"max_document_bytes=10+ must .* at most 10{15}\."),
    ({"output__block_tokens": 0}, "output.block_tokens=0 must be at least 1"),
])
def test_settings_that_cannot_work(fields, expected):
    with pytest.raises(UserError, match=expected):
        make_config(["a.txt"], **fields)


def test_no_input_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"input.paths is empty"):
        make_config([])
    (tmp_path / "here.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"input.paths: an entry is empty"):
        run_prepare(tmp_path / "out", ["here.txt", ""], **BYTES)


def test_no_eos_for_a_tokenizer_without_one(corpus, tmp_path):
    run_prepare(tmp_path / "one", [corpus], tokenizer__kind="char", output__append_eos=False,
                **LINES)
    with pytest.raises(UserError, match=r"no end-of-text token"):
        run_prepare(tmp_path / "two", [corpus], tokenizer__path=str(tmp_path / "one/tokenizer"),
                    **LINES)


def test_unwritable_and_full_folders(corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"A file is in the way"):
        run_prepare(tmp_path / "file", [corpus], **LINES, **BYTES)
    with pytest.raises(UserError, match=r"Cannot write"):
        run_prepare("/proc/nowhere", [corpus], **LINES, **BYTES)

    from jaxllm.data.prepare import writer

    real = writer.array_record_module.ArrayRecordWriter
    monkeypatch.setattr(writer.array_record_module, "ArrayRecordWriter",
                        lambda file, options: real("/dev/full", options))
    with pytest.raises(UserError, match=r"The disk is full"):
        run_prepare(tmp_path / "out", [corpus], **LINES, **BYTES)
    assert not (tmp_path / "out/manifest.json").exists()
    monkeypatch.undo()
    run_prepare(tmp_path / "out", [corpus], **LINES, **BYTES)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("inside", ["config.json", "checkpoints"])
def test_a_run_directory_is_refused(corpus, tmp_path, inside):
    (tmp_path / "run" / inside).mkdir(parents=True)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"run holds a run or a model .*--workdir=data/run"):
        run_prepare(tmp_path / "run", [corpus], **LINES, **BYTES, overwrite=True)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/20", "tokenizer", "tensorboard"])
def test_a_runs_own_folders_are_refused(corpus, tmp_path, inside):
    run = tmp_path / "run"
    (run / inside).mkdir(parents=True)
    (run / "config.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"lies in \w+ of the run .*run.*--workdir=data/run"):
        run_prepare(run / inside, [corpus], **LINES, **BYTES)
    assert sorted(tmp_path.rglob("*")) == before
    run_prepare(run / "data", [corpus], **LINES, **BYTES)
