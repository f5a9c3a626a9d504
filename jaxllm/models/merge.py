"""Adapters on their way to Hugging Face: into the weights of their base, or into a PEFT folder."""

from __future__ import annotations

import json
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.adapters.leaves import Leaves
from jaxllm.models.adapters.peft_export import write_adapter
from jaxllm.models.hf.exporter import (
    GENERATION,
    Blocks,
    check_writable,
    export_params,
    write_config,
    write_tokenizer,
)
from jaxllm.models.hf.importer import CONFIG, nested
from jaxllm.models.load import SavedRun, SavedSum
from jaxllm.models.saved import SavedFolder, SavedModel
from jaxllm.nn.compute import make_compute

CARRIED = "huggingface"  # of a run directory: the files that it cannot say in its own


def has_adapter(saved: SavedModel) -> bool:
    """Whether a model is a base with an adapter."""
    return isinstance(saved, SavedSum) or saved.config.adapter.method == "lora"


def to_peft(saved: SavedRun, folder: epath.Path) -> None:
    """Writes what a run trained as a folder of PEFT.

    Raises:
      UserError: its base is not there, or PEFT cannot say it.
    """
    base = saved.base()
    write_adapter(folder, saved.trained(make_compute()), base.name, base.fingerprint)


def write_merged(
    saved: SavedRun | SavedSum, folder: epath.Path, dtype: np.dtype | None, shard_bytes: int,
    tokenizer: Tokenizer | None, display: Display,
) -> None:
    """Writes a base with what was trained in its weights as a Hugging Face folder.

    A base that was trained in few bits is written as it was then, unpacked. A parameter is merged
    at a time.

    Raises:
      UserError: the base is not there, or the model is none of transformers'.
    """
    compute = make_compute(dtype="float32")
    leaves = saved.leaves(compute, display.warn)
    carried = carried_by(saved)
    check_writable(leaves.config, carried)
    dtypes = {name: dtype or leaves.dtype(name) for name in leaves.specs}
    place = compute.sharding.replicated()

    def read(name: str) -> Blocks:
        whole = tuple(slice(0, size) for size in leaves.specs[name].shape)
        yield whole, np.asarray(jax.device_get(leaves.read(name, dtypes[name], place)))

    export_params(folder, leaves.config, nested(leaves.specs), dtypes, read, shard_bytes)
    kind = _most(leaves, dtypes)
    leaves.close()
    write_config(folder, leaves.config, kind, carried, tokenizer)
    if tokenizer:
        write_tokenizer(folder, tokenizer)


def _most(leaves: Leaves, dtypes: Mapping[str, np.dtype]) -> np.dtype:
    return dtypes[max(leaves.specs, key=lambda name: np.prod(leaves.specs[name].shape))]


def carried_by(saved: SavedModel) -> dict[str, bytes]:
    """The Hugging Face files that a model, or the base of its adapters, came with.

    Raises:
      UserError: one is damaged: generation, and an export, would fail on it later.
    """
    if isinstance(saved, SavedSum):
        return carried_by(saved.base)
    if isinstance(saved, SavedRun):
        folder = saved.run.root / CARRIED
        if not folder.exists() and not saved.is_whole():
            return carried_by(saved.base())
    elif isinstance(saved, SavedFolder):
        folder = saved.folder
    found = {n: (folder / n).read_bytes() for n in (CONFIG, GENERATION) if (folder / n).exists()}
    for name, content in found.items():
        try:
            whole = isinstance(json.loads(content), dict)
        except ValueError:
            whole = False
        if not whole:
            raise UserError(
                f"{folder / name} is damaged: it is no JSON object. Download it again"
                + (", or remove it: it only holds defaults." if name == GENERATION else ".")
            )
    return found
