"""Packed files: read as they are when whole, and up to the damage when not."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import random

import pytest
import zstandard

from jaxllm.data.prepare.documents import Rejected

from .inputs import items, texts, write

TEXTS = [f"{number} " + random.Random(number).randbytes(100).hex() for number in range(2000)]
ROWS = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
PACK = {
    "gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress,
}


@pytest.mark.parametrize("ending", PACK)
def test_packed_rows(tmp_path, ending):
    packed = PACK[ending](ROWS)
    assert texts([write(tmp_path / f"a.jsonl.{ending}", packed)]) == TEXTS
    twice = write(tmp_path / f"b.jsonl.{ending}", packed + packed)
    assert texts([twice]) == TEXTS + TEXTS  # several members or frames, as of pigz and pzstd
    plain = write(tmp_path / f"a.txt.{ending}", PACK[ending](b"\xef\xbb\xbfone\ntwo"))
    assert texts([plain]) == ["one\ntwo"]
    assert texts([plain], document="line") == ["one", "two"]


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.99, 0.999999])
@pytest.mark.parametrize("ending", PACK)
def test_a_file_that_is_cut_short_gives_its_good_rows(tmp_path, ending, share):
    packed = PACK[ending](ROWS)
    cut = packed[: max(20, int(len(packed) * share))]
    file = write(tmp_path / f"a.jsonl.{ending}", cut)
    *good, last = items([file])
    assert (last.id, last.reason) == (str(file), "truncated_archive")
    assert [item.text for item in good] == TEXTS[: len(good)]
    if share > 0.9 and ending != "bz2":  # which unpacks blocks of 900 kB
        assert len(good) > 0.9 * len(TEXTS)


@pytest.mark.parametrize("ending", PACK)
def test_a_damaged_file_gives_the_rows_before(tmp_path, ending):
    packed = bytearray(PACK[ending](ROWS))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(64)
    if ending == "zst":  # its usual frames have no checksum
        packed = zstandard.compress(ROWS) + b"\x28\xb5\x2f\xfd" + b"\xff" * 50
    found = items([write(tmp_path / f"a.jsonl.{ending}", bytes(packed))])
    assert isinstance(found[-1], Rejected)
    assert found[-1].reason in ("broken_archive", "broken_file")
    good = list(itertools.takewhile(lambda item: not isinstance(item, Rejected), found))
    assert [item.text for item in good] == TEXTS[: len(good)]
    if ending == "zst":
        assert len(good) == len(TEXTS)


def test_garbage_behind_the_data(tmp_path):
    for ending, reason in {"gz": "broken_archive", "zst": "broken_archive"}.items():
        file = write(tmp_path / f"a.jsonl.{ending}", PACK[ending](ROWS) + b"hello")
        *good, last = items([file])
        assert [item.text for item in good] == TEXTS[: len(good)]
        assert len(good) > 0.95 * len(TEXTS)
        assert last.reason == reason


def test_zstd_frames_of_all_kinds(tmp_path):
    skipped = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    window = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)  # as of --long=30
    long = io.BytesIO()
    packer = zstandard.ZstdCompressor(compression_params=window)
    with packer.stream_writer(long, closefd=False) as stream:
        stream.write(ROWS)
    content = skipped + PACK["zst"](ROWS) + skipped + long.getvalue()
    assert texts([write(tmp_path / "a.jsonl.zst", content)]) == TEXTS + TEXTS


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_bombs_are_bounded(tmp_path, ending):
    line = b"a" * 50_000_000
    file = write(tmp_path / f"a.jsonl.{ending}", PACK[ending](line + b'\n{"text": "x"}\n'))
    assert file.stat().st_size < 100_000
    long, good = items([file], max_document_bytes=10**6)
    assert (long.reason, good.text) == ("too_long", "x")
