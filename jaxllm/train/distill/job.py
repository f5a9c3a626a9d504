"""The job that evaluates a teacher on a run's examples and keeps its likeliest tokens.

Shapes: B batch, T tokens, D width, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding, check_batch, make_sharding
from jaxllm.core.paths import make_directory, path
from jaxllm.data.loader import TrainingData
from jaxllm.models.config import LANGUAGE_HEADS
from jaxllm.models.load import find_model
from jaxllm.models.saved import Model, SavedModel
from jaxllm.nn.compute import Compute, make_compute
from jaxllm.train.config import Config
from jaxllm.train.distill.cache import (
    FILE,
    CacheInfo,
    encode,
    read_info,
    shard_name,
    write_shard,
)
from jaxllm.train.distill.loss import check_tokenizer, naming_teacher
from jaxllm.train.divergence import chunk_logits, cut_tokens, spread_kernel
from jaxllm.train.feed import local_rows, place
from jaxllm.train.losses import LossOptions
from jaxllm.train.origin import tokenizer_folder, with_steps
from jaxllm.train.scores import Scores, scores_of

SHARD_BYTES = 2**27


def write_cache(config: Config, folder: str, display: Display) -> CacheInfo:
    """Writes what `tune.distillation.teacher` says of the run's examples into `folder`.

    Shards that are there already and belong to the same job are kept: the same command goes on
    where it was stopped.

    Raises:
      UserError: no teacher, one of another tokenizer or kind, several hosts, a mesh that cuts the
        sequence, or a folder of another job.
    """
    options = config.tune.distillation
    sharding = make_sharding(config.mesh)
    size = config.data.global_batch_size
    check_batch(sharding, size, "--config.data.global_batch_size")
    saved = _teacher(options.teacher, sharding)
    data = TrainingData(
        config.data, config.seed, config.model.decoder_start_id, tokenizer_folder(config)
    )
    steps = with_steps(config, data).train.steps
    check_tokenizer(options.teacher, saved.load_tokenizer().hash, data.tokenizer_hash)
    per_step = 8 * options.top_k * data.lengths[0] * size  # bytes, with a weight everywhere
    per_shard = max(SHARD_BYTES // per_step, 1)  # steps
    info = CacheInfo(
        options.teacher, saved.fingerprint, data.fingerprint, data.tokenizer_hash,
        options.temperature, min(options.top_k, saved.config.vocab_size), steps * size,
        per_shard * size, (),
    )
    hashes, shards = _kept(folder, info), -(-steps // per_shard)
    make_directory(folder)
    if len(hashes) < shards:
        compute = make_compute(sharding, dtype=config.train.dtype, attention=config.train.attention)
        model = saved.load(compute, display.warn)
        top = jax.jit(partial(likeliest, model, info.top_k, info.temperature))
        display.start("distilling", steps, len(hashes) * per_shard)
    for shard in range(len(hashes), shards):
        records: list[bytes] = []
        stop = min((shard + 1) * per_shard, steps)
        for step in range(shard * per_shard, stop):
            records += _records(top, model, data, step, size)
            display.update(step + 1)
        hashes.append(write_shard(folder, shard, records))
        dataclasses.replace(info, shards=tuple(hashes), examples=stop * size).write(folder)
    return dataclasses.replace(info, shards=tuple(hashes))


def _teacher(name: str, sharding: Sharding) -> SavedModel:
    """The teacher, if it can be asked here."""
    if not name:
        raise UserError(
            "tune.distillation.teacher is empty: name the model whose predictions are to be kept."
        )
    if jax.process_count() > 1:
        raise UserError("jaxllm distill runs on one host: a teacher's answers are written once.")
    if sharding.parts("sequence") > 1:
        raise UserError("mesh.context must be 1 for jaxllm distill: rows are written whole.")
    with naming_teacher(name):
        saved = find_model(name)
    if saved.config.head.kind not in LANGUAGE_HEADS:
        raise UserError(
            f"tune.distillation.teacher={name!r} has model.head.kind={saved.config.head.kind!r}: "
            "only predicted tokens are kept. Evaluate it in the step."
        )
    return saved


def likeliest(
    model: Model, top_k: int, temperature: float, params, batch
) -> tuple[jax.Array, jax.Array]:
    """Ids and log-probabilities [B, T, K] of the likeliest tokens, the likeliest first.

    Logits exist for a chunk of tokens at a time.
    """
    options = LossOptions(logit_softcap=model.config.logit_softcap)
    scores = scores_of(model, options, params, batch, None)
    return _likeliest(scores, options, model.compute, top_k, temperature)


def _likeliest(
    scores: Scores, options: LossOptions, compute: Compute, top_k: int, temperature: float
):
    vocabulary, (B, T) = scores.kernel.shape[1], scores.weights.shape
    kernel = spread_kernel(compute, scores.kernel)
    chunks = cut_tokens(compute, options, vocabulary, scores.values)

    def body(_, x_PCD):
        logits = chunk_logits(compute, x_PCD, kernel, scores.bias, options.logit_softcap)
        logprobs, ids = jax.lax.top_k(jax.nn.log_softmax(logits / temperature), top_k)
        return None, (ids, logprobs)

    _, found = jax.lax.scan(body, None, chunks)
    mine = B * T // kernel.shape[0]

    def whole(x_nPCK: jax.Array) -> jax.Array:
        x = x_nPCK.swapaxes(0, 1).reshape(kernel.shape[0], -1, top_k)[:, :mine]
        return compute.sharding.by_row(x, B)

    return jax.tree.map(whole, found)


def _records(top, model: Model, data: TrainingData, step: int, size: int) -> list[bytes]:
    """The records of the examples of a step."""
    sharding = model.compute.sharding
    rows = local_rows(sharding, size)
    batch = data.batch_rows(step, rows)
    ids, logprobs = map(np.asarray, top(model.params, place(batch, sharding, rows, size)))
    return [encode(*arrays) for arrays in zip(ids, logprobs, batch.weights, strict=True)]


def _kept(folder: str, info: CacheInfo) -> list[str]:
    """The hashes of whole shards that an earlier call of the same job has written."""
    if not (path(folder) / FILE).exists():
        return []
    there = read_info(folder, "--workdir")
    changing = {"examples": 0, "shards": ()}
    if dataclasses.replace(there, **changing) != dataclasses.replace(info, **changing):
        raise UserError(
            f"--workdir={folder!r} holds what another teacher, other data or other options gave. "
            "Choose another folder."
        )
    found = []
    for index, digest in enumerate(there.shards):
        whole = (index + 1) * info.per_shard <= there.examples or there.examples >= info.examples
        if not (whole and (path(folder) / shard_name(index)).exists()):
            break
        found.append(digest)
    return found
