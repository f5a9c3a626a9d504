"""What follows from a model's parameters: count, shardings, whether a mesh divides them, …"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding
from jaxllm.nn.module import Params, ParamSpec


def is_spec(node: Any) -> bool:
    """True for the leaves of a spec tree, for `jax.tree.map(…, is_leaf=is_spec)`."""
    return isinstance(node, ParamSpec)


def param_count(specs: Params) -> int:
    """The number of parameters; of matrices in few bits their entries."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    return sum(entries(tuple(key.key for key in path), spec) for path, spec in leaves)


def entries(path: Sequence[str], spec: ParamSpec) -> int:
    """The parameters that an array holds: of a matrix in few bits its codes hold all, a byte two of
    four bits (with those that fill up its last block).
    """
    if path[-2:-1] != ("kernel",):
        return math.prod(spec.shape)
    if path[-1] != "codes":
        return 0
    return math.prod(spec.shape) * (2 if spec.dtype == jnp.uint8 else 1)


def param_shardings(specs: Params, sharding: Sharding) -> Params:
    """The NamedSharding of each parameter."""
    return jax.tree.map(lambda spec: sharding.named(spec.axes), specs, is_leaf=is_spec)


def first_not_finite(params: Params) -> str | None:
    """The dotted path of the first parameter with a value that is NaN or infinite."""
    finite = jax.device_get(_all_finite(params))
    for path, ok in jax.tree_util.tree_leaves_with_path(finite):
        if not ok:
            return ".".join(key.key for key in path)
    return None


@jax.jit
def _all_finite(params: Params) -> Params:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), params)


def check_divisible(specs: Params, sharding: Sharding) -> None:
    """Refuses a mesh that does not divide the model's sizes.

    Raises:
      UserError: naming the size, the mesh axes and the sizes that divide.
    """
    for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
        for axis, size in zip(spec.axes, spec.shape, strict=True):
            parts = 1 if axis is None else sharding.parts(axis)
            if size % parts:
                mesh_axes = " x ".join(f"mesh.{name}" for name in dict(sharding.rules)[axis])
                fits = [n for n in range(1, min(size, 2 * parts) + 1) if size % n == 0]
                where = ".".join(key.key for key in path)
                hint = f" Or set model.vocab_size={-(-size // parts) * parts}."
                raise UserError(
                    f"{mesh_axes}={parts} does not divide the model's {axis!r} size of {size} "
                    f"(parameter {where}). Nearest values that do: "
                    f"{', '.join(map(str, fits[-3:]))}.{hint if axis == 'vocab' else ''}"
                )
