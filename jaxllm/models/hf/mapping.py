"""A family's weight table applied to a model: which tensor of theirs is which part of ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxllm.models.hf.weights import Entry, Layout
from jaxllm.models.parameters import is_spec
from jaxllm.nn.module import Params, ParamSpec


@dataclass(frozen=True)
class Part:
    """A parameter of ours, or one layer of it."""

    path: str
    layer: int | None
    shape: tuple[int, ...]  # without the layers
    inputs: int

    @property
    def out_dims(self) -> tuple[int, ...]:
        """The output dimensions of a matrix."""
        return self.shape[self.inputs :]


@dataclass(frozen=True)
class Tensor:
    """A tensor of theirs and its parts in our tree."""

    name: str
    parts: tuple[Part, ...]
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that theirs has."""
        first = self.parts[0]
        if first.path.endswith("table"):
            return first.shape
        outputs = sum(math.prod(part.out_dims) for part in self.parts)
        if not first.inputs:
            return (1, outputs) if self.layout.row else (outputs,)
        inputs = math.prod(first.shape[: first.inputs])
        return (outputs, inputs) if self.layout.transposed else (inputs, outputs)

    def cut(self, theirs: np.ndarray) -> list[np.ndarray]:
        """Their tensor as our parts: views, nothing is read or copied."""
        return [self._cut(theirs, index) for index in range(len(self.parts))]

    def _cut(self, theirs: np.ndarray, index: int) -> np.ndarray:
        part = self.parts[index]
        if part.path.endswith("table"):
            return theirs
        in_dims, out_dims = part.shape[: part.inputs], part.out_dims
        if self.layout.by_head:
            heads, *rest = out_dims
            view = theirs.reshape(heads, len(self.parts), *rest, *in_dims)[:, index]
            return _outputs_last(view, len(out_dims))
        sizes = [math.prod(other.out_dims) for other in self.parts]
        start = sum(sizes[:index])
        here = slice(start, start + sizes[index])
        if not part.inputs:
            return theirs.reshape(-1)[here].reshape(out_dims)
        if self.layout.transposed:
            return _outputs_last(theirs[here].reshape(*out_dims, *in_dims), len(out_dims))
        return theirs[:, here].reshape(*in_dims, *out_dims)

    def join(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Our parts as their tensor, contiguous; the inverse of `cut`."""
        theirs = np.empty(self.shape, ours[0].dtype)
        for view, array in zip(self.cut(theirs), ours, strict=True):
            view[...] = array
        return theirs


def _outputs_last(view: np.ndarray, outputs: int) -> np.ndarray:
    dims = range(view.ndim)
    return view.transpose(*dims[outputs:], *dims[:outputs])


def tensors(entries: Iterable[Entry], specs: Params) -> list[Tensor]:
    """Every tensor of theirs that a model with these parameters has, in the table's order.

    Entries of parameters that the model has not are left out.

    Raises:
      ValueError: a parameter that no entry or more than one covers: the table is wrong.
    """
    flat = flatten(specs)
    found, covered = [], []
    for entry in entries:
        if entry.when and (entry.when[0].replace("*", "layer") in flat) != entry.when[1]:
            continue
        for layer in _layers(entry, flat):
            parts = [_part(path, layer, flat) for path in entry.ours]
            if None in parts:
                if any(parts):
                    raise ValueError(f"{entry.theirs}: the model has only some of {entry.ours}.")
                continue
            name = entry.theirs if layer is None else entry.theirs.format(layer)
            found.append(Tensor(name, tuple(parts), entry.layout))
            covered += [(part.path, part.layer) for part in parts]
    wanted = [
        (path, layer) for path, spec in flat.items()
        for layer in (range(spec.shape[0]) if spec.axes[:1] == ("layers",) else [None])
    ]
    if sorted(covered, key=str) != sorted(wanted, key=str):
        odd = set(wanted) ^ set(covered) or {c for c in covered if covered.count(c) > 1}
        raise ValueError(f"The weight table does not cover these once: {sorted(odd, key=str)[:5]}.")
    return found


def flatten(specs: Params) -> dict[str, ParamSpec]:
    """The specs by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    return {".".join(key.key for key in path): spec for path, spec in leaves}


def _layers(entry: Entry, flat: dict[str, ParamSpec]) -> Iterable[int | None]:
    if "*" not in entry.ours[0]:
        return [None]
    stack = entry.ours[0].split("*")[0]
    counts = {}
    for path, spec in flat.items():
        if path.startswith(stack):
            counts[path[len(stack) :].split(".")[0]] = spec.shape[0]
    return range(sum(counts.values()))


def _part(path: str, layer: int | None, flat: dict[str, ParamSpec]) -> Part | None:
    if layer is None:
        spec = flat.get(path)
        return spec and Part(path, None, spec.shape, spec.inputs)
    spec = flat.get(path.replace("*", "layer"))
    if spec is None:
        return None
    if layer < spec.shape[0]:
        return Part(path.replace("*", "layer"), layer, spec.shape[1:], spec.inputs)
    tail = path.replace("*", "tail")
    return Part(tail, layer - spec.shape[0], flat[tail].shape[1:], spec.inputs)
