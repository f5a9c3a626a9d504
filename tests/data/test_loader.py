"""The batch of a step is a function of (config, seed, step): whatever the hosts and the start."""

import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.loader import TrainingData, ValidationData
from jaxllm.data.tokenizers import byte
from jaxllm.data.windows import Windows

from .corpora import run_prepare
from .reference import causal, read_stream

ROOT = Path(__file__).parents[2]
BATCH, LENGTH, STEPS = 8, 24, 40


def make(corpora, seed=7, **fields):
    mixture = {"a": SourceConfig(str(corpora / "a"), 0.7),
               "b": SourceConfig(str(corpora / "b"), 0.3)}
    return TrainingData(
        DataConfig(sequence_length=LENGTH, global_batch_size=BATCH, mixture=mixture, **fields), seed
    )


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal(ours: Batch, theirs: Batch):
    for name, x, y in zip(Batch._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.fixture(scope="module")
def whole(corpora):
    """The batches of one host that starts at step 0."""
    return take(make(corpora).iterate(0, range(BATCH)), STEPS)


def join(parts):
    return Batch(*(None if x[0] is None else np.concatenate(x) for x in zip(*parts, strict=True)))


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 1, 17, random.Random(0).randrange(30)])
def test_hosts_together_see_the_batches_of_one(corpora, whole, hosts, start):
    share = BATCH // hosts
    parts = [
        take(make(corpora).iterate(start, range(host * share, (host + 1) * share)), 10)
        for host in range(hosts)
    ]
    for step, rows in enumerate(zip(*parts, strict=True), start):
        assert_equal(join(rows), whole[step])


def test_a_run_goes_on_with_another_number_of_hosts(corpora, whole):
    """Steps by 1, 4 and 2 hosts in turn, each resumed by fresh objects at a random step."""
    rng, step = random.Random(1), 0
    for hosts in (1, 4, 2, 4, 1):
        count = rng.randint(1, STEPS // 5)
        share = BATCH // hosts
        parts = [
            take(make(corpora).iterate(step, np.arange(host * share, (host + 1) * share)), count)
            for host in range(hosts)
        ]
        for rows in zip(*parts, strict=True):
            assert_equal(join(rows), whole[step])
            step += 1


def test_rows_need_not_be_neighbours(corpora, whole):
    """A mesh may give a host any rows."""
    rows = [6, 1, 3]
    for step, batch in enumerate(take(make(corpora).iterate(0, rows), 5)):
        for place, row in enumerate(rows):
            assert_equal(Batch(*(x if x is None else x[place] for x in batch)),
                         Batch(*(x if x is None else x[row] for x in whole[step])))


def test_row_r_of_step_s_is_example_s_times_batch_plus_r(corpora, whole):
    data = make(corpora)
    for step, row in [(0, 0), (3, 5), (39, 7)]:
        assert_equal(data.example(step * BATCH + row),
                     Batch(*(x if x is None else x[row] for x in whole[step])))


def test_seed_and_shuffle_change_the_batches(corpora, whole):
    for other in (make(corpora, seed=8), make(corpora, shuffle=False)):
        assert (other.batch_rows(0, range(BATCH)).inputs != whole[0].inputs).any()


def test_unshuffled_examples_are_the_windows_of_the_text_in_order(corpora):
    mixture = {"a": SourceConfig(str(corpora / "a"))}
    data = TrainingData(DataConfig(LENGTH, BATCH, mixture=mixture, shuffle=False), 0)
    tokens, starts = read_stream(corpora / "a", "train")
    for index in range(len(tokens) // LENGTH - 1):
        part = slice(index * LENGTH, index * LENGTH + LENGTH + 1)
        expected = causal(tokens[part], starts[part], LENGTH)
        row = data.example(index)
        for name, values in expected.items():
            assert getattr(row, name).tolist() == values


def test_an_epoch_trains_on_every_window_once(corpora):
    mixture = {"a": SourceConfig(str(corpora / "a"))}
    data = TrainingData(DataConfig(LENGTH, BATCH, mixture=mixture), 3)
    tokens, _ = read_stream(corpora / "a", "train")
    count = len(Windows(data.sources["a"], LENGTH + 1, 1, 0))
    found = sorted(data.example(i).inputs.tolist() for i in range(count))
    expected = sorted(tokens[i * LENGTH : (i + 1) * LENGTH] for i in range(count))
    assert found == expected


def test_an_error_in_the_loading_thread_reaches_the_caller(corpora, tmp_path):
    shutil.copytree(corpora / "b", tmp_path / "b")
    file = next((tmp_path / "b").glob("train-*"))
    content = bytearray(file.read_bytes())
    for place in range(0, 3000, 7):
        content[place] ^= 0xFF
    file.write_bytes(content)
    mixture = {"b": SourceConfig(str(tmp_path / "b"))}
    data = TrainingData(DataConfig(LENGTH, BATCH, mixture=mixture), 0)
    with pytest.raises(UserError, match=r"is damaged at record"):
        take(data.iterate(0, range(BATCH)), 10)


def test_a_tokenizer_that_was_replaced_is_found(corpora, tmp_path):
    shutil.copytree(corpora / "a", tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "tokenizer")
    byte.ByteTokenizer(mask=True).save(tmp_path / "a" / "tokenizer")
    config = DataConfig(sequence_length=LENGTH, mixture={"a": SourceConfig(str(tmp_path / "a"))})
    with pytest.raises(UserError, match=r"a/tokenizer is another tokenizer .*it was replaced"):
        TrainingData(config, 7).load_tokenizer()
    assert TrainingData(config, 7).batch_rows(0, [0]).inputs.shape == (1, LENGTH)
    make(corpora).load_tokenizer()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(corpora, seed):
    make(corpora, seed=2**32 - 1)
    with pytest.raises(UserError, match=rf"seed={seed} must lie between 0 and 2\*\*32 - 1"):
        make(corpora, seed=seed)


def test_settings_that_cannot_work(corpora):
    for fields, expected in (({"workers": -1}, "data.workers=-1 must be at least 0"),
                             ({"prefetch": 0}, "data.prefetch=0 must be at least 1"),
                             ({"workers": 10**6}, "data.workers=1000000 must .* at most 1024"),
                             ({"prefetch": 10**20}, "data.prefetch=10+ must .* at most 1024"),
                             ({"objective": "mask"}, "data.objective='mask' is unknown")):
        with pytest.raises(UserError, match=expected):
            make(corpora, **fields)


@pytest.mark.parametrize("length", [16, 100, 10_000])
def test_validation_has_every_token_as_target_once(corpora, length):
    data = ValidationData(str(corpora / "a"), DataConfig(length))
    tokens, starts = read_stream(corpora / "a", "validation")
    rows = []
    for batch in data.batches(3):
        assert batch.inputs.shape == (3, length)
        rows += [Batch(*(x if x is None else x[i] for x in batch)) for i in range(3)]
    assert len(rows) == -(-len(data) // 3) * 3
    for index, row in enumerate(rows):
        part = slice(index * length, index * length + length + 1)
        expected = causal(tokens[part], starts[part], length)
        for name, values in expected.items():
            assert getattr(row, name).tolist() == values
    assert sum(row.weights.sum() for row in rows) == len(tokens) - sum(starts)
    assert [len(list(data.batches(3, limit=n))) for n in (0, 1)] == [-(-len(data) // 3), 1]
    assert data.bytes_per_token == data.bytes / len(tokens)


def test_a_host_reads_only_its_rows_of_a_validation_batch(corpora, monkeypatch):
    data = ValidationData(str(corpora / "a"), DataConfig(16))
    whole, read = list(data.batches(8)), []
    assert len(data) % 8 in range(1, 6)  # the last batch has padding in row 6
    example = data.example
    monkeypatch.setattr(data, "example", lambda index: read.append(index) or example(index))
    for batch, part in zip(whole, data.batches(8, rows=np.array([6, 1])), strict=True):
        assert_equal(part, Batch(*(x if x is None else x[[6, 1]] for x in batch)))
    assert {index % 8 for index in read[1:]} == {6, 1}


def test_a_validation_split_of_one_token(tmp_path):
    (tmp_path / "a.txt").write_text("hello world")
    run_prepare(tmp_path / "out", [tmp_path / "a.txt"], tokenizer__kind="char",
                split__by="position", split__validation_share=0.01, output__append_eos=False)
    with pytest.raises(UserError, match=r"has 1 token"):
        ValidationData(str(tmp_path / "out"), DataConfig(8))


def test_worker_processes_give_the_same_batches(corpora, whole, tmp_path):
    """In a process of its own: Grain starts its workers by running the main module again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.data.test_loader import make, take\n"
        "if __name__ == '__main__':\n"
        f"    data = make(Path({str(corpora)!r}), workers=2)\n"
        "    batches = take(data.iterate(5, range(2, 6)), 7)\n"
        f"    out = Path({str(tmp_path / 'out')!r})\n"
        "    out.write_bytes(pickle.dumps([tuple(batch) for batch in batches]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    found = pickle.loads((tmp_path / "out").read_bytes())
    for step, batch in enumerate(found, 5):
        assert_equal(Batch(*batch), Batch(*(x if x is None else x[2:6] for x in whole[step])))


def test_joined_documents_keep_tokens_and_targets(corpora):
    """Without document blocks a batch is the same but for segments and positions."""
    batch = make(corpora).batch_rows(3, range(4))
    joined = make(corpora, block_cross_document_attention=False).batch_rows(3, range(4))
    assert joined.segment_ids is None
    np.testing.assert_array_equal(joined.positions, [range(LENGTH)] * 4)
    for name in ("inputs", "targets", "weights"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(batch, name))


def test_lengths_of_a_row(corpora):
    assert make(corpora).lengths == (LENGTH, 0)
