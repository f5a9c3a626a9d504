"""What is kept of a teacher: written, resumed, read at any step, and refused where it is not ours.
"""

import numpy as np
import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.data.loader import TrainingData
from jaxllm.train.config import resolve_config
from jaxllm.train.distill import cache, job
from jaxllm.train.distill.cache import TeacherCache, decode, encode, read_info, shard_name
from jaxllm.train.loop import train
from tests.train.conftest import make_recipe

STEPS, B = 4, 8


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    values = make_recipe(corpus)
    values.mesh.fsdp, values.mesh.data = 1, -1
    values.train.steps, values.eval.batches = 2, 1
    run = tmp_path_factory.mktemp("teacher") / "run"
    train(resolve_config(values), {}, str(run), make_display())
    values.train.steps = STEPS
    values.tune.distillation.update(teacher=str(run), top_k=5, temperature=1.5)
    return values


@pytest.fixture(scope="module")
def written(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "teacher"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SHARD_BYTES", 2 * B * 8 * 5 * 32)  # two steps a shard
        info = job.write_cache(resolve_config(recipe), str(folder), make_display())
    return folder, info


def test_a_record_has_the_places_with_a_weight():
    rng = np.random.default_rng(0)
    weights = np.array([0, 1, 0, 0.5], np.float32)
    ids, logprobs = rng.integers(0, 99, (4, 3)).astype(np.int32), rng.random((4, 3), np.float32)
    record = encode(ids, logprobs, weights)
    assert len(record) == 2 * 3 * 8
    found = decode(record, weights, 3)
    for original, read in zip((ids, logprobs), found, strict=True):
        np.testing.assert_array_equal(read[weights != 0], original[weights != 0])
        assert not read[weights == 0].any()
    with pytest.raises(ValueError, match="bytes instead of"):
        decode(record, np.ones(4, np.float32), 3)


@pytest.mark.thorough
def test_kept_tokens_are_those_of_the_examples(recipe, written):
    """Any rows of any step: sorted log-probabilities of at most 1 together."""
    folder, info = written
    config = resolve_config(recipe)
    assert info == read_info(folder) and info.examples == STEPS * B and len(info.shards) == 2
    kept = TeacherCache(folder)
    data = TrainingData(config.data, config.seed)
    kept.check(data.fingerprint, 1.5, STEPS * B)
    rows = [1, 6]
    batch = data.batch_rows(3, rows)
    one = kept.attach(batch, 3, B, rows)
    assert one.teacher_ids.shape == (2, 32, 5) and one.teacher_ids.dtype == np.int32
    there = batch.weights != 0
    mass = np.exp(one.teacher_logprobs).sum(-1)[there]
    assert (mass <= 1 + 1e-5).all() and (mass > 0.02).all()
    assert (np.diff(one.teacher_logprobs[there]) <= 0).all()
    stream = kept.attached(data.iterate(2, np.arange(B)), 2, B, range(B))
    next(stream)
    np.testing.assert_array_equal(next(stream).teacher_ids[rows], one.teacher_ids)


@pytest.mark.thorough
def test_the_job_goes_on_where_it_stopped(recipe, written, monkeypatch):
    folder, info = written
    (folder / shard_name(1)).unlink()
    with pytest.raises(UserError, match="is missing"):
        TeacherCache(folder)
    steps = []
    original = job._records
    monkeypatch.setattr(job, "_records", lambda *a: steps.append(a[3]) or original(*a))
    monkeypatch.setattr(job, "SHARD_BYTES", 2 * B * 8 * 5 * 32)
    again = job.write_cache(resolve_config(recipe), str(folder), make_display())
    assert steps == [2, 3] and again.shards == info.shards


@pytest.mark.thorough
def test_another_job_or_run_is_refused(recipe, written):
    folder, _ = written
    changed = recipe.copy_and_resolve_references()
    changed.seed = 7
    with pytest.raises(UserError, match="another folder"):
        job.write_cache(resolve_config(changed), str(folder), make_display())
    kept = TeacherCache(folder)
    config = resolve_config(recipe)
    fingerprint = TrainingData(config.data, config.seed).fingerprint
    for arguments, words in (
        (("f" * 64, 1.5, 8), "other examples"), ((fingerprint, 0.9, 8), "temperature 1.5"),
        ((fingerprint, 1.5, 10**6), "1,000,000"),
    ):
        with pytest.raises(UserError, match=words):
            kept.check(*arguments)
    with pytest.raises(UserError, match="jaxllm distill"):
        TeacherCache(folder / "nothing")
    (folder / "other").mkdir()
    (folder / "other" / cache.FILE).write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        TeacherCache(folder / "other")


@pytest.mark.thorough
def test_a_damaged_record_is_named(recipe, written, tmp_path):
    folder, info = written
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    cache.write_shard(tmp_path, 0, [b"short"] * info.per_shard)
    config = resolve_config(recipe)
    batch = TrainingData(config.data, config.seed).batch_rows(0, [0])
    with pytest.raises(UserError, match=r"teacher-00000.array_record is damaged at record 0"):
        TeacherCache(tmp_path).attach(batch, 0, B, [0])
