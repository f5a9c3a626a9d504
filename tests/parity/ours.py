"""The model of a reference as ours: imported, run, compared layer by layer, exported again."""

from __future__ import annotations

import json
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.hf.family import HARMLESS, Family, find_family
from jaxllm.models.hf.importer import import_params, read_model_config
from jaxllm.models.hf.mapping import Tensor, tensors
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute, make_compute
from jaxllm.nn.module import Params, abstract, bind
from tests.parity.reference import Reference, Rows, chosen, entries

# keys that another one makes superfluous
SUPERFLUOUS = frozenset({"_sliding_window_pattern"})
# compiled for one small run
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def wanted_names(theirs: dict[str, Any]) -> set[str]:
    """The names of the tensors that we read for a config.json."""
    family = find_family(theirs)
    config = family.read(theirs)
    _, specs = _abstract(config, make_compute())
    return {tensor.name for tensor in _tensors(family, config, specs)}


def check(reference: Reference, folder: Path, compute: Compute) -> float:
    """Asserts that ours computes, imports and exports the same; the largest difference of outputs.
    """
    (folder / "config.json").write_text(json.dumps(reference.config))
    given = reference.tensors()
    save_file(given, folder / "model.safetensors", {"format": "pt"})
    family, config = find_family(reference.config), read_model_config(folder)
    check_config(reference.config, family)
    structure, specs = _abstract(config, compute)
    params = import_params(folder, config, specs, compute)
    table = _tensors(family, config, specs)
    check_export(reference, given, family, table, params)
    found = run(structure, bool(reference.gradients), params, _inputs(reference.rows, config),
                reference.rows.targets)
    check_hidden(reference, found)
    difference = check_outputs(reference, found, config)
    if reference.gradients:
        np.testing.assert_allclose(found["loss"], reference.loss, rtol=1e-4)
        check_gradients(reference, table, found["gradients"])
    return difference


@partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
def run(structure, differentiate: bool, params: Params, inputs: Inputs, targets) -> dict[str, Any]:
    """All that is compared, in one program."""
    def forward(params):
        model = bind(structure, params)
        last, seen = model.traced(inputs, every_layer=lambda x: x)
        if model.config.head.kind in LANGUAGE_HEADS:
            outputs = model.logits(last)
        else:
            outputs = model.head(last, inputs.segments)
        seen["last"], loss = last, 0.0
        if differentiate:
            log_p = jnp.take_along_axis(
                jax.nn.log_softmax(outputs), targets[..., None], axis=-1
            )[..., 0]
            loss = -jnp.sum(log_p * (inputs.segments != 0))
        return loss, {"hidden": seen, "outputs": outputs}

    if not differentiate:
        return forward(params)[1]
    (loss, found), gradients = jax.value_and_grad(forward, has_aux=True)(params)
    return {**found, "loss": loss, "gradients": gradients}


def check_config(theirs: dict[str, Any], family: Family) -> None:
    """Reading and writing gives every key back with its value, but for bookkeeping."""
    again = family.write(family.read(theirs))
    for key, value in theirs.items():
        if key not in HARMLESS | SUPERFLUOUS | family.harmless and value is not None:
            assert key in again, f"{key}={value!r} is lost"
            assert again[key] == value, f"{key}={value!r} became {again[key]!r}"
    assert again["architectures"] == theirs["architectures"]
    assert family.read(again) == family.read(theirs)


def check_export(
    reference: Reference, given: dict[str, np.ndarray], family: Family, table: list[Tensor],
    params: Params,
) -> None:
    """The imported parameters make the file's tensors again, bit by bit."""
    names = {tensor.name for tensor in table}
    unused = {
        name for name in given if any(re.fullmatch(pattern, name) for pattern in family.ignored)
    }
    assert names == set(given) - set(reference.copies) - (unused - names)
    for tensor in table:
        np.testing.assert_array_equal(_joined(tensor, params), given[tensor.name], tensor.name)


def check_hidden(reference: Reference, found: dict[str, Any]) -> None:
    """Every layer of every tower; the first that differs is named."""
    for tower, states in reference.hidden.items():
        ours = np.array(found["hidden"][tower])
        rows, both = reference.rows, "encoder" in reference.hidden and len(reference.hidden) > 1
        encoder = both and tower == "encoder"
        if not encoder:
            ours[-1] = found["hidden"]["last"]  # theirs is normalised already
        segments = rows.encoder_segments if encoder else rows.segments
        ours = ours.reshape(len(ours), -1, ours.shape[-1])[:, chosen(segments, reference.sparse)]
        assert ours.shape == states.shape
        for layer, (a, b) in enumerate(zip(ours, states, strict=True)):
            if encoder and layer == len(ours) - 1:
                continue  # normalised in theirs; the decoder sees it
            name = f"layer {layer} of {len(ours) - 1} of the {tower}" if layer else \
                f"the embedding of the {tower}"
            size = max(1.0, float(np.abs(b).max()))
            np.testing.assert_allclose(
                a, b, rtol=0, atol=3e-5 * size, err_msg=f"after {name}"
            )


def check_outputs(reference: Reference, found: dict[str, Any], config: ModelConfig) -> float:
    """Logits, classes or pooled states; the largest difference."""
    ours, theirs = np.asarray(found["outputs"]), reference.outputs
    if config.head.kind == "reward":
        ours = ours[..., None]
    if ours.ndim == 3:
        places = chosen(reference.rows.segments, reference.sparse)
        ours = ours.reshape(-1, ours.shape[-1])[places]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4, err_msg="outputs")
    return float(np.abs(ours - theirs).max())


def check_gradients(reference: Reference, table: list[Tensor], gradients: Params) -> None:
    """Those of every tensor, in the file's layout."""
    assert {tensor.name for tensor in table} <= set(reference.gradients)
    largest = max(float(np.abs(g).max()) for g in reference.gradients.values())
    for tensor in table:
        ours = entries(_joined(tensor, gradients), reference.sparse)
        theirs = reference.gradients[tensor.name]
        error, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
        # a key's bias has a gradient of rounding errors only
        assert error <= 1e-3 * size + 1e-6 * largest * np.sqrt(ours.size), (
            f"gradient of {tensor.name}: {error} of {size}"
        )


@lru_cache(maxsize=8)
def _abstract(config: ModelConfig, compute: Compute):
    return abstract(partial(Transformer, config=config, compute=compute))


def _tensors(family: Family, config: ModelConfig, specs: Params) -> list[Tensor]:
    return tensors(family.names(config), specs)


def _joined(tensor: Tensor, tree: Params) -> np.ndarray:
    parts = []
    for part in tensor.parts:
        node: Any = tree
        for name in part.path.split("."):
            node = node[name]
        parts.append(np.asarray(node if part.layer is None else node[part.layer]))
    return tensor.join(parts)


def _inputs(rows: Rows, config: ModelConfig) -> Inputs:
    encoder = None
    if rows.encoder_ids is not None:
        places = np.broadcast_to(np.arange(rows.encoder_ids.shape[1]), rows.encoder_ids.shape)
        encoder = Inputs(rows.encoder_ids, places, rows.encoder_segments)
    return Inputs(rows.ids, rows.positions, rows.segments, None, rows.types, encoder)
