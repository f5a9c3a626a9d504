"""A preparation from a bucket into a bucket, which has no folders: the bytes of a local one."""

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from jaxllm.data.prepare.pipeline import prepare

from ..corpora import make_config, quiet
from .test_pipeline import ALL, contents, corpus  # noqa: F401 (a fixture)


class Bucket(MemoryFileSystem):
    """Objects with names, and nothing else: a folder is there while an object is in it."""

    protocol = ("gs",)
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def mkdir(self, path, create_parents=True, **_):
        """A bucket makes no folders."""

    def makedirs(self, path, exist_ok=False):
        """A bucket makes no folders."""


@pytest.fixture
def bucket(monkeypatch):
    found = Bucket(skip_instance_cache=True)
    found.store.clear()
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: found)
    local = type(backend.fsspec_backend).open

    def open_either(self, path, mode):
        return local(self, path, mode) if "gs://" in str(path) else open(path, mode)

    monkeypatch.setattr(type(backend.fsspec_backend), "open", open_either)
    return found


def test_a_bucket_holds_what_a_disk_would(corpus, tmp_path, bucket):  # noqa: F811
    sets = {"decontaminate__sets": (str(tmp_path / "eval.jsonl"),)}
    for file in sorted(corpus.iterdir()):
        bucket.pipe(f"gs://b/corpus/{file.name}", file.read_bytes())
    config = make_config(["gs://b/corpus/*.txt", "gs://b/corpus/*.jsonl"], **ALL, **sets)
    prepare(config, "gs://b/out", quiet(), unit_bytes=5000)
    prepare(config, tmp_path / "out", quiet(), unit_bytes=5000)
    found = {name.removeprefix("/b/out/"): bucket.cat(name)
             for name in bucket.find("gs://b/out")}
    assert found == contents(tmp_path / "out")
    prepare(config, "gs://b/out", quiet(), unit_bytes=5000)  # nothing to do
