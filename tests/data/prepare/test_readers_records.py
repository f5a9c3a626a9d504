"""Records: ArrayRecord files of texts, JSON and Examples, and data sets of TFDS, both written by
their own libraries."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from jaxllm.core.errors import UserError
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.readers import find_files

from .inputs import items, outline, texts, write

TEXTS = ["one\ntwo", "", "漢 😀", '{"text": "code that is a document"}', "\nleading line"]


def records(file, rows, options="group_size:1"):
    writer = array_record_module.ArrayRecordWriter(str(file), options)
    for row in rows:
        writer.write(row)
    writer.close()
    return file


def example(**fields):
    kinds = {str: np.object_, int: np.int64}
    specs = {
        name: tfds.features.TensorInfo(shape=(), dtype=kinds[type(value)])
        for name, value in fields.items()
    }
    return ExampleSerializer(specs).serialize_example(fields)


@pytest.mark.parametrize("options", ["group_size:1", "group_size:65536"])
def test_records_of_text(tmp_path, options):
    file = records(tmp_path / "a.array_record", [text.encode() for text in TEXTS], options)
    assert outline([file]) == [(str(number), text) for number, text in enumerate(TEXTS)]


def test_records_of_json(tmp_path):
    rows = [json.dumps({"text": text, "id": number % 4}).encode()
            for number, text in enumerate(TEXTS)]
    file = records(tmp_path / "a.array_record-00000-of-00002", rows)
    assert texts([file]) == TEXTS
    assert [text for _, text in outline([file], id_field="id")] == [*TEXTS[:4], "<duplicate_id>"]
    assert texts([file], record_format="text") == [row.decode() for row in rows]


def test_records_of_examples(tmp_path):
    rows = [example(text=text, url=f"u{number}", n=number) for number, text in enumerate(TEXTS)]
    file = records(tmp_path / "a.array_record", rows)
    found = items([file], source_field="url", id_field="n")
    assert [(item.text, item.source) for item in found] == [
        (text, f"u{number}") for number, text in enumerate(TEXTS)
    ]
    bad = [item.excerpt for item in items([file], text_field="body")]
    assert set(bad) == {"'body' is missing; fields with text: text, url"}


def test_bad_records(tmp_path):
    long = b'{"text": "' + b"x" * 100 + b'"}'
    rows = [b'{"text": "a"}', b"x", b'{"text": "caf\xe9"}', long, b"{}"]
    file = records(tmp_path / "a.array_record", rows)
    assert [text for _, text in outline([file], max_document_bytes=100)] == [
        "a", "<bad_json>", "<invalid_utf8>", "<too_long>", "<no_text_field>",
    ]
    assert [text for _, text in outline([file], record_format="text", max_document_bytes=100)] == [
        '{"text": "a"}', "x", "<invalid_utf8>", "<too_long>", "{}",
    ]
    rows = [example(text="a"), b"no example", example(text=3), example(text="b" * 100)]
    file = records(tmp_path / "b.array_record", rows)
    assert [text for _, text in outline([file], max_document_bytes=100)] == [
        "a", "<bad_example>", "<not_text>", "<too_long>",
    ]


def test_records_whose_kind_is_not_as_configured(tmp_path):
    file = records(tmp_path / "a.array_record", [b'{"content": "a", "n": 1}'])
    with pytest.raises(UserError, match=r"without this field; it has content, n.*=text if"):
        items([file])
    with pytest.raises(UserError, match=r"record_format='jsn' is unknown. Did you mean 'json'"):
        items([file], record_format="jsn")


def test_broken_record_files(tmp_path):
    rows = [f"{number} ".encode() * 200 for number in range(3000)]
    file = records(tmp_path / "a.array_record", rows)
    content = bytearray(file.read_bytes())
    damaged = content[:]
    damaged[len(content) // 2] ^= 255
    for bad, good in ((damaged, 1000), (content[: len(content) // 2], 0), (b"no records", 0)):
        *found, last = items([write(file, bytes(bad))])
        assert (last.id, last.reason) == (str(file), "broken_file")
        assert [item.text.encode() for item in found] == rows[: len(found)]
        assert len(found) >= good
    assert items([records(tmp_path / "empty.array_record", [])]) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a TFDS data set `demo`, with 50 examples to train in 3 files and 3 to test."""
    features = tfds.features.FeaturesDict({
        "text": tfds.features.Text(), "id": np.int64, "meta": {"site": tfds.features.Text()},
    })

    class Demo(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._rows(50), "test": self._rows(3)}

        def _generate_examples(self):
            raise NotImplementedError

        def _rows(self, count):
            for number in range(count):
                site = {"site": f"s{number % 2}"}
                yield number, {"text": f"漢 {number}", "id": number, "meta": site}

    folder = tmp_path_factory.mktemp("tfds")
    builder = Demo(data_dir=str(folder), file_format="array_record")
    config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=3)
    builder.download_and_prepare(download_config=config)
    rows = tfds.data_source("demo", split="train", data_dir=folder)
    return folder, [row["text"].decode() for row in rows]


def test_data_sets_of_tfds(demo):
    folder, expected = demo
    options = {"tfds_dir": str(folder)}
    assert sorted(expected, key=lambda text: int(text[2:])) == [f"漢 {n}" for n in range(50)]
    assert texts(["tfds:demo/train"], **options) == expected
    assert texts(["tfds:demo:1.0.0/train[10:40]"], **options) == expected[10:40]
    both = texts(["tfds:demo/train[:10%]", "tfds:demo/train[90%:]"], **options)
    assert both == expected[:5] + expected[45:]
    found = items(["tfds:demo/test"], source_field="meta.site", id_field="id", **options)
    assert {item.source for item in found} == {"s0", "s1"}
    assert [item.id for item in found] == [f"tfds:demo/test[{n}:{n + 1}]:0" for n in range(3)]


def test_pieces_of_a_split_are_its_files(demo):
    config = InputConfig(paths=("tfds:demo/train",), tfds_dir=str(demo[0]))
    files = find_files(config)
    assert len(files) == 3
    ends = [file.name.partition("[")[2].strip("]").split(":") for file in files]
    assert [int(start) for start, _ in ends] == [0, *(int(end) for _, end in ends[:-1])]
    assert int(ends[-1][1]) == 50


@pytest.mark.parametrize("entry, fields, expected", [
    ("tfds:nosuch/train", {}, "there is no data set 'nosuch' in .*file_format=array_record"),
    ("tfds:ag_news_subset/train", {}, "'ag_news_subset' is not in .*tfds build"),
    ("tfds:demo/trian", {}, "there is no such split. Did you mean 'train'"),
    ("tfds:demo/train[:200]", {}, "incompatible with 50 examples"),
    ("tfds:demo/train+test", {}, "names no data set with one split"),
    ("tfds:demo", {}, "names no data set with one split"),
    ("tfds:demo/train", {"text_field": "id"}, "has no text by this name. Its .* id, meta, text"),
    ("tfds:demo/train", {"text_field": "meta"}, "has no text by this name"),
    ("tfds:demo/train", {"source_field": "meta.url"}, "has no such feature"),
    ("tfds:demo/train", {"format": "jsonl"}, "input.format='jsonl' do not go together"),
])
def test_data_sets_that_cannot_be_read(demo, entry, fields, expected):
    with pytest.raises(UserError, match=expected):
        items([entry], tfds_dir=str(demo[0]), **fields)


def test_a_format_that_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"format='tfds' do not go together: .* with 'tfds:'"):
        items([write(tmp_path / "a.txt", "x")], format="tfds")


def test_readers_import_neither_jax_nor_tensorflow(demo):
    program = (
        "import sys\n"
        "from jaxllm.data.prepare.config import InputConfig\n"
        "from jaxllm.data.prepare.readers import find_files, read\n"
        "heavy = {'tensorflow_datasets', 'pyarrow', 'trafilatura'} & set(sys.modules)\n"
        f"config = InputConfig(paths=('tfds:demo/train',), tfds_dir={str(demo[0])!r})\n"
        "print(sum(1 for file in find_files(config) for _ in read(file, config)), heavy,\n"
        "      {'jax', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "50 set() set()"
