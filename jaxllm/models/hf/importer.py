"""From a Hugging Face folder to parameters, a tensor at a time.

What is read is mapped. Onto devices each array is built in its shards, so that the model exists
once, where it is used; for a checkpoint only a block of an array exists at a time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import path
from jaxllm.core.streaming import Index, Streamed
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.copy import all_finite, copy_cast, empty
from jaxllm.models.hf.family import Family, find_family
from jaxllm.models.hf.mapping import Tensor, flatten, tensors
from jaxllm.models.hf.safetensors import Tensors
from jaxllm.models.parameters import param_shardings
from jaxllm.nn.compute import Compute
from jaxllm.nn.module import Params

CONFIG = "config.json"


def is_hf_folder(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a Hugging Face model: a config.json that says its model_type."""
    try:
        theirs = json.loads((path(folder) / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(theirs, dict) and "model_type" in theirs


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """config.json as it is.

    Raises:
      UserError: it is missing or damaged.
    """
    file = path(folder) / CONFIG
    try:
        theirs = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}): download it again.") from error
    if not isinstance(theirs, dict):
        raise UserError(f"{file} is no JSON object: download it again.")
    return theirs


def read_model_config(folder: str | os.PathLike) -> ModelConfig:
    """The ModelConfig of a folder.

    Raises:
      UserError: see `read_config`, `find_family` and `Family.read`.
    """
    theirs = read_config(folder)
    try:
        family = find_family(theirs)
        config = family.read(theirs)
    except UserError as error:
        raise UserError(f"{path(folder)}: {error}") from error
    except KeyError as error:
        raise UserError(f"{path(folder)}: config.json has no {error}.") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{path(folder)}: config.json has a value of the wrong kind ({error}). Compare it with "
            "the model's original."
        ) from error
    if not any(path(folder).glob("*.safetensors")):
        return config
    if config.tied and family.untied_with:
        return dataclasses.replace(config, tied=not _differs(Tensors(folder), family))
    if config.head.kind == "embedding" and config.head.dense and not _has_pooler(folder):
        return dataclasses.replace(config, head=dataclasses.replace(config.head, dense=False))
    return config


def _has_pooler(folder: str | os.PathLike) -> bool:
    """Whether there is one: transformers' add_pooling_layer=False does not show in config.json."""
    return any(name.endswith("pooler.dense.weight") for name in Tensors(folder))


def _differs(files: Tensors, family: Family) -> bool:
    """Whether the output projection is there, and another than the embedding."""
    own, shared = family.untied_with, family.twins[family.untied_with]
    return own in files and shared in files and not np.array_equal(files[own], files[shared])


def import_params(
    folder: str | os.PathLike, config: ModelConfig, specs: Params, compute: Compute,
    warn: Callable[[str], None] | None = None,
) -> Params:
    """The parameters of a folder as arrays in their shards, in the dtypes of `specs`.

    `warn` is told of weights that the model leaves out.

    Raises:
      UserError: missing or further tensors, one of another shape, or one that is not finite.
    """
    source = Source(folder, config, specs)
    if warn and source.left_out:
        warn(source.left_out)
    shardings = flatten_arrays(param_shardings(specs, compute.sharding))
    return nested({
        name: source.read(name, spec.dtype, shardings[name])
        for name, spec in flatten(specs).items()
    })


THREADS = min(8, os.cpu_count() or 1)  # of which some wait for the disk and some copy
FLOATS = {np.dtype(d) for d in ("float64", "float32", "float16", ml_dtypes.bfloat16)}

# The place of a parameter, or of each of its layers: (tensor, which of its parts, its data).
Place = tuple[Tensor, int, np.ndarray]


class Source:
    """The parameters of a folder, of which any block can be made."""

    def __init__(self, folder: str | os.PathLike, config: ModelConfig, specs: Params):
        """Opens the files and accounts for every tensor.

        Raises:
          UserError: see `Tensors`; missing or further tensors, or one of another shape or kind.
        """
        self.files = Tensors(folder)
        self._shapes = {name: spec.shape for name, spec in flatten(specs).items()}
        family = find_family(read_config(folder))
        self._places = _match(self.files, family, config, specs)
        read = {id(data) for places in self._places.values() for _, _, data in places.values()}
        dropped = sorted(
            name for name, data in self.files.items() if id(data) not in read
            and any(re.fullmatch(pattern, name) for pattern in family.dropped)
        )
        # a sentence on weights that a model with this head does not hold
        self.left_out = dropped and (
            f"{self.files.folder}: left out, as a model with model.head.kind="
            f"{config.head.kind!r} has no place for them: {', '.join(dropped)}."
        )

    def dtype(self, name: str) -> np.dtype:
        """What holds the parameter's tensors exactly: theirs, or float32 where they differ.

        Of float64, which nothing here computes in, float32 keeps the leading bits.
        """
        found = {data.dtype for _, _, data in self._places[name].values()}
        one = found.pop() if len(found) == 1 else np.dtype(np.float32)
        return one if one.itemsize < 8 else np.dtype(np.float32)

    def streamed(self, name: str, dtype: np.dtype, pool: ThreadPoolExecutor) -> Streamed:
        """The parameter as a checkpoint writes it."""
        def make(index: Index) -> np.ndarray:
            block = self.build(name, index, dtype, pool)
            self.files.forget()
            return block

        return Streamed(self._shapes[name], dtype, make)

    def read(self, name: str, dtype: np.dtype, sharding: NamedSharding) -> jax.Array:
        """The parameter in its shards.

        Raises:
          UserError: see `build`.
        """
        shards: dict[str, np.ndarray] = {}  # replicas share one

        def shard(index: Index) -> np.ndarray:
            key = str(index)
            if key not in shards:
                shards[key] = self.build(name, index, dtype, pool)
            return shards[key]

        with ThreadPoolExecutor(THREADS) as pool:
            array = jax.make_array_from_callback(self._shapes[name], sharding, shard)
            array.block_until_ready()
        self.files.forget()
        return array

    def build(
        self, name: str, index: Index, dtype: np.dtype, pool: ThreadPoolExecutor
    ) -> np.ndarray:
        """The part of a parameter that `index` cuts out of it.

        Raises:
          UserError: it has values that are not finite.
        """
        places = self._places[name]
        shape = self._shapes[name]
        ranges = [range(*cut.indices(size)) for cut, size in zip(index, shape, strict=True)]
        out = empty(tuple(len(r) for r in ranges), dtype)

        def fill(target: np.ndarray, place: Place, cuts: Index) -> None:
            tensor, part, data = place
            view = tensor.cut(data)[part][cuts]
            self.files.fetch(view)
            copy_cast(target, view)
            if not all_finite(target):
                raise UserError(
                    f"{self.files.folder}: the tensor {tensor.name} has values that are not finite "
                    "(NaN or infinite): the model would compute nothing else. Download it again, "
                    "or take another checkpoint of it."
                )

        if None in places:
            rows = _pieces(ranges[0], out[:1].nbytes) if out.ndim else []
            jobs = [
                pool.submit(fill, out[r.start - ranges[0].start : r.stop - ranges[0].start],
                            places[None], (slice(r.start, r.stop), *index[1:]))
                for r in rows
            ]
        else:
            jobs = [
                pool.submit(fill, out[i], places[n], index[1:]) for i, n in enumerate(ranges[0])
            ]
        for job in jobs:
            job.result()
        return out


PIECE_BYTES = 16 * 2**20  # of a large parameter that one thread reads and copies at a time


def _pieces(rows: range, row_bytes: int) -> list[range]:
    step = max(1, PIECE_BYTES // max(row_bytes, 1))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _match(
    files: Tensors, family: Family, config: ModelConfig, specs: Params
) -> dict[str, dict[int | None, Place]]:
    """For each of our parameters where its layers come from; every tensor is accounted for."""
    bare = not any(name.startswith(family.prefix) for name in files)
    wanted = tensors(family.names(config, bare), specs)
    theirs = {_renamed(name, family.renames): files[name] for name in files}
    result: dict[str, dict[int | None, Place]] = defaultdict(dict)
    names = {tensor.name for tensor in wanted}
    if missing := [tensor.name for tensor in wanted if tensor.name not in theirs]:
        spare = [name for name in theirs if name not in names]
        more = f" (nor {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise UserError(
            f"{files.folder} has no tensor {missing[0]!r}{more}. "
            f"{nearest(missing[0], spare) if spare else 'Every tensor there has another place.'} "
            "Is config.json that of these weights?"
        )
    for tensor in wanted:
        data = theirs[tensor.name]
        if data.shape != tensor.shape:
            raise UserError(
                f"{files.folder}: {tensor.name} has shape {list(data.shape)}, and config.json "
                f"makes it {list(tensor.shape)}. One of the two is of another model."
            )
        if data.dtype not in FLOATS:
            raise UserError(
                f"{files.folder}: {tensor.name} is kept as {data.dtype.name}: quantised weights "
                "are not read. Download the model in bfloat16 or float32."
            )
        for index, part in enumerate(tensor.parts):
            result[part.path][part.layer] = (tensor, index, data)
    _check_spare(files, theirs, names, family, config)
    return result


def _check_spare(
    files: Tensors, theirs: Mapping[str, np.ndarray], names: set[str], family: Family,
    config: ModelConfig,
) -> None:
    """Refuses tensors that the model would not hold, but for buffers and copies."""
    for name in theirs:
        unread = (*family.ignored, *family.dropped)
        if name in names or any(re.fullmatch(pattern, name) for pattern in unread):
            continue
        twin = family.twins.get(name)
        if twin in theirs:
            if _same(theirs[name], theirs[twin]):
                continue
            why = (
                "here they are one table: a model of this class whose embeddings were untied and "
                "went apart is not read."
            )
            if config.tied and "embed_tokens" not in name:
                why = (
                    "config.json says that they are one (tie_word_embeddings=true). Set "
                    "tie_word_embeddings to false."
                )
            raise UserError(f"{files.folder}: {name} differs from {twin}, and {why}")
        raise UserError(
            f"{files.folder} has a tensor {name!r} that a {family.model_type!r} model of this "
            f"config.json does not hold. {nearest(name, names)}"
        )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors are bitwise equal; a piece at a time."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    one, other = (array.reshape(-1).view(np.uint8) for array in (one, other))
    return all(
        np.array_equal(one[at : at + PIECE_BYTES], other[at : at + PIECE_BYTES])
        for at in range(0, one.size, PIECE_BYTES)
    )


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def flatten_arrays(tree: Params) -> dict[str, Any]:
    """The leaves of a tree by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(key.key for key in path): leaf for path, leaf in leaves}


def nested(flat: Mapping[str, Any]) -> Params:
    """The tree of leaves by dotted path."""
    tree: Params = {}
    for name, leaf in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
