"""The parameters of a model with adapters, from those of its base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.core.devices import quick_options
from jaxllm.core.errors import UserError
from jaxllm.models.adapters.adapter import FACTORS, MAGNITUDE, STARTS, remainder
from jaxllm.models.adapters.leaves import Leaves
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.importer import flatten_arrays, nested
from jaxllm.models.hf.mapping import flatten
from jaxllm.models.parameters import param_shardings
from jaxllm.models.saved import SavedModel
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import Linear
from jaxllm.nn.lora import norms, product
from jaxllm.nn.module import Params, Structure, bind, split, submodules
from jaxllm.nn.quantised import Packing, Quantised, by_layer


def adapted_params(
    base: Leaves, structure: Structure, specs: Params, key: jax.Array,
    trained: Mapping[str, jax.Array] | None = None,
) -> Params:
    """All parameters of a model with adapters, in their shards.

    The base is read a parameter at a time (of the layers' matrices: one kind, of all layers) in
    the dtype of compute, and quantised on the devices a layer at a time before the next is read.
    So the devices hold what the model keeps and one such parameter: of Llama 3.1 8B in nf4 at most
    4.1 GB packed, 2.1 GB of embeddings and output projection and 3.8 GB being packed.

    Args:
      base: the parameters of the model without adapters.
      structure, specs: of the model with adapters, as `abstract` gives them.
      key: new adapters, and a new head where the base has none, are drawn with it.
      trained: what trains, by dotted path, where it is there already; the rest is drawn.

    Raises:
      UserError: the base lacks a parameter, has one of another shape or one too many.
    """
    model: Transformer = bind(structure, specs)
    maker = _Maker(base, model.config, model.compute, specs, dict(trained or {}))
    maker.draw(key)
    linears = {path: m for path, m in submodules(model) if isinstance(m, Linear)}
    for name, spec in maker.specs.items():
        path = name.rpartition(".")[0]
        if name in maker.done:
            continue
        if path in linears and name == f"{path}.kernel":
            maker.matrix(path, linears[path], spec.shape)
        elif path.endswith(".kernel") and path.removesuffix(".kernel") in linears:
            path = path.removesuffix(".kernel")
            packing = linears[path].kernel.packing
            lead = maker.specs[f"{path}.kernel.codes"].shape[0]
            maker.matrix(path, linears[path], (lead, *packing.inputs, *packing.outputs))
        else:
            maker.done[name] = maker.read(name, spec.shape)
    return nested({name: maker.done[name] for name in maker.specs})


def start_params(
    saved: SavedModel, structure: Structure, specs: Params, key: jax.Array,
    warn: Callable[[str], None], trained: Params | None = None,
) -> Params:
    """The parameters of a run that starts from a saved model, in their shards.

    Adapters that the model has already are gone on with if they are the run's own, and merged into
    the base otherwise. For how memory is bounded, see `adapted_params`.

    Args:
      structure, specs: of the run's model, as `abstract` gives them.
      key: new adapters, and a head of another kind than the model's, are drawn with it.
      trained: what trains, of a checkpoint of the run; None: the run begins.

    Raises:
      UserError: the model cannot be read, or does not fit.
    """
    model: Transformer = bind(structure, specs)
    config, compute = model.config, model.compute
    base, adapter = saved.parts(config, compute, warn)
    given = dict(adapter.leaves) if adapter else {}
    if trained is not None:
        given = flatten_arrays(trained)
    elif adapter is None and "+" in saved.name and config.adapter.method == "lora":
        warn(f"{saved.name} has other adapters than this run: they are merged into its base.")
    params = adapted_params(base, structure, specs, key, given)
    base.close()
    return params


class _Maker:
    """The parameters made so far."""

    def __init__(
        self, base: Leaves, config: ModelConfig, compute: Compute, specs: Params,
        done: dict[str, jax.Array],
    ):
        self.base, self.config, self.compute = base, config, compute
        self.specs, self.done = flatten(specs), done
        self.given = frozenset(done)
        self.shardings = flatten_arrays(param_shardings(specs, compute.sharding))

    def draw(self, key: jax.Array) -> None:
        """What neither the base nor anybody else has: adapters, and a head of another kind."""
        ours, theirs = self.config.head, self.base.config.head
        new = (".lora.", "head.") if ours.kind != theirs.kind else (".lora.",)
        missing = [
            name for name in self.specs if name not in self.done
            and any(part in name for part in new)
        ]
        plain = {name.partition(".kernel.")[0] for name in self.specs}
        spare = [
            name for name in self.base.specs
            if name.removesuffix(".kernel") not in plain and name not in self.specs
            and (ours.kind == theirs.kind or not name.startswith("head."))
        ]
        if spare:
            raise UserError(
                f"The base has a parameter {spare[0]} that the model here does not hold. Leave "
                "`model` unset, so that it follows from the base."
            )
        if not missing:
            return

        def fresh(key: jax.Array) -> dict[str, jax.Array]:
            new = flatten_arrays(split(Transformer(key, self.config, self.compute))[1])
            return {name: new[name] for name in missing}

        out = {name: self.shardings[name] for name in missing}
        options = quick_options(self.compute.sharding.mesh.devices.flat[0].platform)
        self.done |= jax.jit(fresh, out_shardings=out, compiler_options=options)(key)

    def read(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        """A parameter of the base."""
        spec = self.specs[name]
        return self._read(name, shape, spec.dtype, self.shardings[name])

    def _read(self, name: str, shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.Array:
        there = self.base.specs.get(name)
        if there is None or there.shape != shape:
            found = "no such parameter" if there is None else f"shape {list(there.shape)}"
            raise UserError(
                f"The base does not fit the model: {name} has shape {list(shape)} here and "
                f"{found} there. Leave the sizes in `model` unset, so that they follow from it."
            )
        return self.base.read(name, dtype, sharding)

    def matrix(self, path: str, linear: Linear, shape: tuple[int, ...]) -> None:
        """The kernel of a linear map, packed where it is to be, and what its adapter takes of it.
        """
        lead = ("layers",) * (len(shape) - len(linear.axes))
        sharding = self.compute.sharding.named((*lead, *linear.axes))
        whole = f"{path}.kernel"
        packing = linear.kernel.packing if isinstance(linear.kernel, Quantised) else None
        dtype = self.compute.dtype if packing else self.specs[whole].dtype
        kernel = self._read(whole, shape, dtype, sharding)
        own = {
            key: self.done[f"{path}.{key}"] for key in (*FACTORS, *STARTS, MAGNITUDE)
            if f"{path}.{key}" in self.done
        }
        scale = linear.lora.scale if linear.lora is not None else 0.0
        new = f"{path}.{FACTORS[0]}" not in self.given
        if STARTS[0] in own and new:
            own |= self._run(partial(_pissa, linear.inputs, scale), path, kernel, own)
        if packing or STARTS[0] in own:
            kernel = self._run(
                partial(_kept, scale, packing), path, kernel, own, whole=whole, sharding=sharding
            )
        if packing is None:
            self.done[whole] = kernel
        if MAGNITUDE in own and f"{path}.{MAGNITUDE}" not in self.given:
            self._run(partial(_lengths, linear.inputs, scale, packing), path, kernel, own)

    def _run(
        self, function: Any, path: str, kernel: Any, own: dict[str, jax.Array], whole: str = "",
        sharding: Any = None,
    ) -> Any:
        """`function` of each layer; what it gives is done, under the names that it gives it."""
        run = by_layer(function, self.compute.sharding)
        shapes = jax.eval_shape(run, kernel, own)
        if not isinstance(shapes, dict):  # the kernel itself
            return jax.jit(run, out_shardings=sharding)(kernel, own)
        names = {key: f"{whole or path}.{key}" for key in shapes}
        out = {key: self.shardings[name] for key, name in names.items()}
        found = jax.jit(run, out_shardings=out)(kernel, own)
        dtypes = {key: self.specs[name].dtype for key, name in names.items()}
        found = {key: array.astype(dtypes[key]) for key, array in found.items()}
        self.done |= {names[key]: array for key, array in found.items()}
        jax.block_until_ready(found)
        return found


def _pissa(
    inputs: int, scale: float, kernel: jax.Array, own: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The factors of the largest singular values (Meng et al. 2024, arXiv:2404.02948)."""
    in_dims, out_dims = kernel.shape[:inputs], kernel.shape[inputs:]
    r = own[FACTORS[0]].shape[-1]
    u, s, vt = jnp.linalg.svd(
        kernel.astype(jnp.float32).reshape(math.prod(in_dims), -1), full_matrices=False
    )
    root = jnp.sqrt(s[:r] / scale)
    a, b = (u[:, :r] * root).reshape(*in_dims, r), (root[:, None] * vt[:r]).reshape(r, *out_dims)
    return {FACTORS[0]: a, FACTORS[1]: b, STARTS[0]: a, STARTS[1]: b}


def _kept(
    scale: float, packing: Packing | None, kernel: jax.Array, own: Mapping[str, jax.Array]
) -> Any:
    """What stays of the base's matrix, packed or not."""
    rest = remainder(kernel, own, scale, None)
    return packing.pack(rest) if packing else rest.astype(kernel.dtype)


def _lengths(
    inputs: int, scale: float, packing: Packing | None, kernel: Any,
    own: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """DoRA's magnitudes: those that change nothing."""
    whole = packing.unpack(kernel, jnp.float32) if packing else kernel.astype(jnp.float32)
    whole = whole + product(own[FACTORS[0]], own[FACTORS[1]], scale)
    return {MAGNITUDE: norms(whole, inputs)}
