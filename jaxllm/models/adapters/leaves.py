"""The parameters of a saved model, one at a time: what adapters are put on, or merged into.

A leaf is read straight into its shards and let go of before the next, so that a model larger than
the memory can be quantised, merged or written.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.core.checkpoint import Checkpoints, Damaged
from jaxllm.core.errors import UserError
from jaxllm.models.adapters.adapter import Adapter, linears_of
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.importer import Source, nested
from jaxllm.nn.compute import Compute
from jaxllm.nn.module import ParamSpec


class Leaves(abc.ABC):
    """The parameters of a model as it is without adapters, by dotted path."""

    config: ModelConfig
    specs: Mapping[str, ParamSpec]

    def __init__(self, config: ModelConfig, compute: Compute):
        """`config` may have adapters: they are left out of it."""
        self.config = dataclasses.replace(config, adapter=AdapterConfig())
        self.specs = linears_of(self.config, compute).specs

    @abc.abstractmethod
    def read(self, name: str, dtype: Any, sharding: NamedSharding) -> jax.Array:
        """One of them in this dtype, in its shards.

        Raises:
          UserError: it cannot be read.
        """

    @abc.abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """The dtype in which it is stored."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of what is open."""


class FolderLeaves(Leaves):
    """Those of a Hugging Face folder."""

    def __init__(
        self, folder: Any, config: ModelConfig, compute: Compute, warn: Callable[[str], None]
    ):
        """`warn` is told of weights that the model leaves out.

        Raises:
          UserError: see `Source`.
        """
        super().__init__(config, compute)
        self._source = Source(folder, config, nested(self.specs))
        if self._source.left_out:
            warn(self._source.left_out)

    def read(self, name: str, dtype: Any, sharding: NamedSharding) -> jax.Array:
        """See Leaves."""
        return self._source.read(name, np.dtype(dtype), sharding)

    def dtype(self, name: str) -> np.dtype:
        """See Leaves."""
        return self._source.dtype(name)

    def close(self) -> None:
        """See Leaves."""
        self._source.files.forget()


class CheckpointLeaves(Leaves):
    """Those of a step of a run."""

    def __init__(self, name: str, folder: Any, step: int, config: ModelConfig, compute: Compute):
        """`name` is the model's, as the user gave it."""
        super().__init__(config, compute)
        self._name, self._step = name, step
        self._checkpoints = Checkpoints(folder)

    def read(self, name: str, dtype: Any, sharding: NamedSharding) -> jax.Array:
        """See Leaves."""
        like = jax.ShapeDtypeStruct(self.specs[name].shape, dtype, sharding=sharding)
        found = read_arrays(self._name, self._checkpoints, self._step, {name: like})
        return found[name]

    def dtype(self, name: str) -> np.dtype:
        """See Leaves."""
        return np.dtype(self._checkpoints.read_meta(self._step)["arrays"][f"params.{name}"][1])

    def close(self) -> None:
        """See Leaves."""
        self._checkpoints.close()


class MergedLeaves(Leaves):
    """Those of a base with adapters in it: each delta times its weight is added."""

    def __init__(
        self, base: Leaves, adapters: Sequence[tuple[Adapter, float]], config: ModelConfig,
        compute: Compute, quantised: bool = False,
    ):
        """`quantised`: the base is as an adapter's run had it, in few bits."""
        super().__init__(config, compute)
        self._base, self._adapters, self._quantised = base, adapters, quantised

    def read(self, name: str, dtype: Any, sharding: NamedSharding) -> jax.Array:
        """See Leaves."""
        touching = [
            (adapter, weight) for adapter, weight in self._adapters
            if adapter.touches(name, self._quantised)
        ]
        alone = len(self._adapters) == 1 and self._adapters[0][1] == 1.0
        if alone and name in self._adapters[0][0].leaves:
            return jax.device_put(self._adapters[0][0].leaves[name].astype(dtype), sharding)
        if name not in self._base.specs:
            raise UserError(
                f"The base has no {name}; an adapter that brings it must be the only one, with "
                "the weight 1."
            )
        value = self._base.read(name, dtype, sharding)
        if alone and touching:
            value = touching[0][0].merged(name, value, self._quantised, dtype)
        elif touching:
            before, exact = value.astype(np.float32), np.float32
            value = (before + sum(
                weight * (adapter.merged(name, value, self._quantised, exact) - before)
                for adapter, weight in touching
            )).astype(dtype)
        return jax.device_put(value, sharding)

    def dtype(self, name: str) -> np.dtype:
        """See Leaves."""
        if name in self._base.specs:
            return self._base.dtype(name)
        return self._adapters[0][0].leaves[name].dtype

    def close(self) -> None:
        """See Leaves."""
        self._base.close()


class TunedLeaves(Leaves):
    """Those of a base moved towards models that were tuned from it whole.

    Each difference times its weight is added: one weight below 1 interpolates (WiSE-FT, Wortsman
    et al. 2022, arXiv:2109.01903), several add tasks (Ilharco et al. 2023, arXiv:2212.04089).
    """

    def __init__(
        self, base: Leaves, tuned: Sequence[tuple[Leaves, float]], config: ModelConfig,
        compute: Compute,
    ):
        """`tuned` has the models with their weights; `config` is that of the result."""
        super().__init__(config, compute)
        self._base, self._tuned = base, tuple(tuned)

    def read(self, name: str, dtype: Any, sharding: NamedSharding) -> jax.Array:
        """See Leaves."""
        first, *more = self._tuned
        spec = self._base.specs.get(name)
        if spec is None or spec.shape != self.specs[name].shape:
            if more or first[1] != 1.0:
                raise UserError(
                    f"The base has no {name} of shape {list(self.specs[name].shape)}, so there is "
                    "nothing between it and the tuned model's: leave the weight at 1."
                )
            return first[0].read(name, dtype, sharding)
        base = self._base.read(name, np.float32, sharding)
        moved = base
        for leaves, weight in self._tuned:
            moved = moved + weight * (leaves.read(name, np.float32, sharding) - base)
        return moved.astype(dtype)

    def dtype(self, name: str) -> np.dtype:
        """See Leaves."""
        return self._tuned[0][0].dtype(name)

    def close(self) -> None:
        """See Leaves."""
        for leaves in (self._base, *(leaves for leaves, _ in self._tuned)):
            leaves.close()


def read_arrays(
    name: str, checkpoints: Checkpoints, step: int, like: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Parameters of a checkpoint by dotted path, shaped and sharded as `like`.

    Raises:
      UserError: they are damaged, or not there; `name` is the model's.
    """
    if not like:
        return {}
    try:
        found = checkpoints.restore(step, {"params": nested(like)}, cast=True)["params"]
    except Damaged as damage:
        raise UserError(f"model={name!r}: {damage} Choose another step.") from damage
    result = {}
    for path in like:
        node = found
        for part in path.split("."):
            node = node[part]
        result[path] = node
    return result
