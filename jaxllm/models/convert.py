"""`jaxllm convert`: a Hugging Face folder becomes a run directory, and the reverse.

The output is made beside its place and moved there when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import jaxllm
from jaxllm.core.checkpoint import Checkpoints, Damaged, Meta
from jaxllm.core.config import to_dict
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError, unknown
from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, make_directory
from jaxllm.core.rundir import RunDirectory
from jaxllm.core.streaming import read_streamed, save_streamed
from jaxllm.data.tokenizers import Tokenizer, has_tokenizer
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.hf import parity
from jaxllm.models.hf.exporter import (
    Blocks,
    check_writable,
    export_params,
    write_config,
    write_record,
    write_tokenizer,
)
from jaxllm.models.hf.importer import CONFIG, THREADS, Source, nested
from jaxllm.models.hf.mapping import flatten
from jaxllm.models.hf.safetensors import local
from jaxllm.models.load import SavedRun, SavedSum, find_model
from jaxllm.models.merge import CARRIED, carried_by, has_adapter, to_peft, write_merged
from jaxllm.models.parameters import param_count
from jaxllm.models.saved import SavedFolder, SavedModel
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import Params, abstract

DTYPES = ("float32", "bfloat16")


def convert(
    model: str, output: str, display: Display, *, dtype: str = "", shard_bytes: int = 5 * 10**9,
    check: bool = True, merge: bool = False,
) -> dict[str, Any] | None:
    """Converts a model to the other kind; gives parity.json's content if there is one.

    A run that trained an adapter becomes a folder of PEFT; BASE+ADAPTER, or the run with `merge`,
    a whole model with the adapter in its weights.

    Args:
      dtype: float32 or bfloat16; "": as stored.
      shard_bytes: of a safetensors file, at most.
      check: compare the exported model's outputs with the source's.
      merge: write the adapter into the weights of its base.

    Raises:
      UserError: no such model, a damaged one, nothing to merge, or an output that cannot be
        written.
    """
    if dtype and dtype not in DTYPES:
        raise unknown("--dtype", dtype, DTYPES)
    if shard_bytes < 1:
        raise UserError(f"--shard_bytes={shard_bytes} must be at least 1.")
    saved = find_model(model)
    if merge and not has_adapter(saved):
        raise UserError(f"--merge: {model} has no adapter to merge. Leave it out.")
    target = _free(output)
    wanted = jnp.dtype(dtype) if dtype else None
    tokenizer = saved.load_tokenizer() if has_tokenizer(saved.tokenizer) else None
    if tokenizer is None:
        display.warn(
            f"{model} has no tokenizer: generation, evaluation and training from it will want one. "
            f"Copy its files (tokenizer.json, tokenizer_config.json) into {saved.tokenizer} and "
            "convert again."
        )
    with _beside(target) as place:
        if isinstance(saved, SavedFolder):
            with display.phase(f"importing {model}"):
                _to_run(saved, RunDirectory(place), wanted, tokenizer, display)
            return None
        with display.phase(f"exporting {model}"):
            if has_adapter(saved) and not merge and isinstance(saved, SavedRun):
                to_peft(saved, place)
                exact = saved.config.adapter.quantization == "none"  # on the base as it was written
                again = f"{saved.base().name}+{place}" if exact else None
            elif isinstance(saved, SavedSum) or not saved.is_whole():
                write_merged(saved, place, wanted, shard_bytes, tokenizer, display)
                again = str(place)
            else:
                saved = _to_folder(saved, place, wanted, shard_bytes, tokenizer, display)
                again = str(place)
        if not check or again is None:
            return None
        with display.phase("comparing"):
            return _compare(saved, place, again, display)


def _to_run(
    saved: SavedFolder, run: RunDirectory, dtype: np.dtype | None, tokenizer: Tokenizer | None,
    display: Display,
) -> None:
    config = saved.config
    specs = _specs(config)
    carried = carried_by(saved)
    source = Source(saved.folder, config, specs)
    if source.left_out:
        display.message(source.left_out)
    names = flatten(specs)
    dtypes = {name: dtype or source.dtype(name) for name in names}
    needed = sum(np.prod(spec.shape) * dtypes[name].itemsize for name, spec in names.items())
    _check_room(run.root, int(needed))
    hash_ = tokenizer.hash if tokenizer else ""
    meta = {
        "model": to_dict(config), "optimizer": "", "data": "", "tokenizer": hash_, "tokens": 0,
        "difference": {},
    }
    with ThreadPoolExecutor(THREADS) as pool:
        leaves = {name: source.streamed(name, dtypes[name], pool) for name in names}
        save_streamed(run.checkpoints, 0, {"params": nested(leaves)}, meta)
    for name, content in carried.items():
        atomic_write_bytes(make_directory(run.root / CARRIED) / name, content)
    if tokenizer:
        tokenizer.save(run.tokenizer)
    description = {
        "difference": {}, "config": {"model": to_dict(config), "data": to_dict(saved.data)},
        "converted_from": str(saved.folder),
        "versions": {"jaxllm": jaxllm.__version__, "jax": jax.__version__},
        "parameters": param_count(specs),
    }
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    atomic_write_text(run.config, text)


def _to_folder(
    saved: SavedRun, place: epath.Path, dtype: np.dtype | None, shard_bytes: int,
    tokenizer: Tokenizer | None, display: Display,
) -> SavedRun:
    """Writes the folder; gives the step that it is of, which is an earlier one if one is damaged.
    """
    carried = carried_by(saved)
    check_writable(saved.config, carried)
    checkpoints = Checkpoints(saved.run.checkpoints)
    steps = saved.steps(checkpoints)
    for step in reversed(steps):
        try:
            meta = checkpoints.read_meta(step)
            kind = _export(saved, step, meta, place, dtype, shard_bytes)
        except Damaged as damage:
            if step == steps[0]:
                raise UserError(f"model={saved.name!r}: {damage} Choose another step.") from damage
            display.warn(f"{damage} The checkpoint before it is used.")
            shutil.rmtree(place)
            make_directory(place)
            continue
        break
    checkpoints.close()
    write_config(place, saved.config, kind, carried, tokenizer)
    if tokenizer:
        write_tokenizer(place, tokenizer)
    return SavedRun(saved.name, saved.tokenizer, saved.run, step)


def _export(
    saved: SavedRun, step: int, meta: Meta, place: epath.Path, dtype: np.dtype | None,
    shard_bytes: int,
) -> np.dtype:
    """Writes the tensors; gives the dtype of most of them."""
    config, arrays = saved.config, meta["arrays"]
    specs = _specs(config)
    names = flatten(specs)
    for name, spec in names.items():
        found = arrays.get(f"params.{name}", [None])[0]
        if found != list(spec.shape):
            raise UserError(
                f"model={saved.name!r}: the checkpoint of step {step} holds {name} as {found}, and "
                f"config.json makes it {list(spec.shape)}: it is of another model."
            )
    dtypes = {name: dtype or jnp.dtype(arrays[f"params.{name}"][1]) for name in names}

    def read(name: str) -> Blocks:
        return read_streamed(saved.run.checkpoints, step, meta, f"params.{name}")

    export_params(place, config, specs, dtypes, read, shard_bytes)
    most = max(names, key=lambda name: np.prod(names[name].shape))
    return dtypes[most]


def _compare(
    saved: SavedModel, place: epath.Path, name: str, display: Display
) -> dict[str, Any]:
    """Writes parity.json. The models are in memory one after the other.

    `name` is how what was written is named as a model.
    """
    again = find_model(name)
    config, whole = again.config, (place / CONFIG).exists()
    theirs = json.loads((place / CONFIG).read_text()) if whole else {}
    special = {theirs.get(f"{role}_token_id") for role in ("bos", "eos", "pad")}
    ends = config.architecture == "encoder_decoder" and config.head.kind not in LANGUAGE_HEADS
    last = theirs.get("eos_token_id") if ends else None
    ids = parity.sample_ids(config, special, last)
    compute = make_compute(dtype="float32")
    outputs = [parity.ours(model.load(compute, display.warn), ids) for model in (saved, again)]
    others = parity.theirs(place, ids, config) if whole else None
    result = parity.record(*outputs, others, ids)
    write_record(place, parity.FILE, result)
    return result


def _specs(config: ModelConfig) -> Params:
    return abstract(partial(Transformer, config=config, compute=make_compute()))[1]


def _free(output: str) -> epath.Path:
    """The place of the output, which nothing takes up."""
    target = local(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"--output={output}: {target} exists and is not empty. Name another folder, or remove "
            "this one first."
        )
    return target


@contextlib.contextmanager
def _beside(target: epath.Path) -> Iterator[epath.Path]:
    """A folder that becomes `target` when all went well, and is removed when not."""
    place = target.parent / f".{target.name}.{os.getpid()}.tmp"
    make_directory(place)
    try:
        yield place
        if target.exists():
            target.rmdir()
        os.rename(place, target)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _check_room(folder: epath.Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"Cannot write {folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB "
            "free. Free space, or choose another disk for --output."
        )
