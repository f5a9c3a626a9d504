"""An adapter apart from its base: its trained parameters, and what they make of a base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.mapping import flatten
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import Linear
from jaxllm.nn.lora import norms, product
from jaxllm.nn.module import ParamSpec, abstract, bind, submodules
from jaxllm.nn.quantised import Packing, Quantised, by_layer

FACTORS = ("lora.a.kernel", "lora.b.kernel")
STARTS = ("lora.a.start", "lora.b.start")
MAGNITUDE = "lora.magnitude"


@dataclass(frozen=True)
class Linears:
    """The linear maps of a model with adapters, by path, and its parameters."""

    found: Mapping[str, Linear]
    specs: Mapping[str, ParamSpec]  # by dotted path

    def scale(self, path: str) -> float:
        """What the product of the factors is multiplied with."""
        return self.found[path].lora.scale

    def packing(self, path: str) -> Packing | None:
        """How the matrix is packed, if it is."""
        kernel = self.found[path].kernel if path in self.found else None
        return kernel.packing if isinstance(kernel, Quantised) else None

    def trained(self) -> list[str]:
        """The paths of what trains."""
        return [name for name, spec in self.specs.items() if spec.trained]


@lru_cache(maxsize=8)  # a trace of the whole model, which a load asks for several times
def linears_of(config: ModelConfig, compute: Compute) -> Linears:
    """The linear maps of a model of this configuration, without its parameters.

    Raises:
      UserError: see `attach`.
    """
    make = partial(Transformer, config=config, compute=compute)
    structure, specs = abstract(make)
    model = bind(structure, specs)
    found = {path: m for path, m in submodules(model) if isinstance(m, Linear)}
    return Linears(found, flatten(specs))


@dataclass(frozen=True)
class Adapter:
    """The trained parameters of a model with adapters."""

    config: ModelConfig
    compute: Compute
    leaves: Mapping[str, jax.Array]  # by dotted path

    @cached_property
    def linears(self) -> Linears:
        """The model that it is of."""
        return linears_of(self.config, self.compute)

    def fits(self, other: ModelConfig) -> bool:
        """Whether a model of this configuration has the very adapters that these parameters are."""
        if other.adapter.method != "lora":
            return False
        there, here = linears_of(other, self.compute), self.linears
        adapted = [path for path, linear in here.found.items() if linear.lora is not None]
        shapes = [
            {name: spec.shape for name, spec in linears.specs.items() if ".lora." in name}
            for linears in (there, here)
        ]
        return shapes[0] == shapes[1] and all(there.scale(p) == here.scale(p) for p in adapted)

    def touches(self, name: str, quantised: bool) -> bool:
        """Whether the base's parameter `name` is another with this adapter in it."""
        path = name.removesuffix(".kernel")
        packed = quantised and name != path and self.linears.packing(path) is not None
        return name in self.leaves or packed or f"{path}.{FACTORS[0]}" in self.leaves

    def merged(self, name: str, base: jax.Array, quantised: bool, dtype: Any) -> jax.Array:
        """The base's parameter with this adapter in it.

        `quantised`: the base is packed and unpacked first, as in the adapter's own run.
        """
        if name in self.leaves:
            return self.leaves[name].astype(dtype)
        path = name.removesuffix(".kernel")
        linear = self.linears.found[path]
        given = {key: self.leaves.get(f"{path}.{key}") for key in (*FACTORS, *STARTS, MAGNITUDE)}
        given = {key: jnp.asarray(array) for key, array in given.items() if array is not None}
        packing = self.linears.packing(path) if quantised else None
        scale = linear.lora.scale if linear.lora is not None else 0.0

        def one(kernel, given):
            kernel = remainder(kernel, given, scale, packing)
            if FACTORS[0] in given:
                kernel = kernel + product(given[FACTORS[0]], given[FACTORS[1]], scale)
            if MAGNITUDE in given:
                magnitude = given[MAGNITUDE].astype(jnp.float32)
                kernel = kernel * (magnitude / norms(kernel, linear.inputs))
            return kernel.astype(dtype)

        return jax.jit(by_layer(one, linear.compute.sharding))(base, given)


def remainder(
    kernel: jax.Array, given: Mapping[str, jax.Array], scale: float, packing: Packing | None
) -> jax.Array:
    """A layer's base matrix as the adapter sees it, float32: less what PiSSA took, and unpacked."""
    kernel = kernel.astype(jnp.float32)
    if STARTS[0] in given:
        kernel = kernel - product(given[STARTS[0]], given[STARTS[1]], scale)
    if packing is not None:
        kernel = packing.unpack(packing.pack(kernel), jnp.float32)
    return kernel
