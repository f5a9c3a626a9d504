"""Checkpoints written and read a part at a time, for models that memory need not hold.

The files are those of `checkpoint.py`, by the same Orbax handlers: what is written here any run
restores, and what a run saved is read here. A part is a block of an array that lies in one piece
of the file; it is proven by the same checksums.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from jaxllm.core.checkpoint import Damaged, Meta, checksum_part, damage_of, seal, storage_error
from jaxllm.core.paths import in_bucket, path

PART_BYTES = 64 * 2**20  # of a part that is written, at most
IN_FLIGHT = 2  # parts being compressed and written while the next is made

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Streamed:
    """An array of a checkpoint that is made while it is written, a part at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[Index], np.ndarray]  # the block that the index cuts out

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.size * self.dtype.itemsize


def part_shape(shape: tuple[int, ...], itemsize: int, most: int = PART_BYTES) -> tuple[int, ...]:
    """The largest block of at most `most` bytes that whole trailing dimensions make up."""
    result, room = list(shape), most // itemsize
    for axis in range(len(shape)):
        rest = math.prod(shape[axis + 1 :])
        result[axis] = max(1, min(shape[axis], room // max(rest, 1)))
        if result[axis] * rest <= room:
            break
    return tuple(result)


def blocks(shape: tuple[int, ...], part: tuple[int, ...]) -> Iterator[Index]:
    """The indices of all blocks of shape `part` (the last ones are smaller), in order."""
    starts = [range(0, size, step) for size, step in zip(shape, part, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + step, size))
            for start, step, size in zip(corner, part, shape, strict=True)
        )


class _Handler(ocp.type_handlers.TypeHandler):
    """Orbax's way to write a Streamed; it is read back as any array."""

    def __init__(self):
        self.checksums: dict[str, list] = {}

    def typestr(self) -> str:
        """Orbax's name of the kind of leaf."""
        return "np.ndarray"

    async def metadata(self, infos):
        """Not ours to do: the registry with this handler only writes."""
        raise NotImplementedError("a streamed checkpoint is described by Orbax's own handlers")

    async def deserialize(self, infos, args=None):
        """Not ours to do: the registry with this handler only writes."""
        raise NotImplementedError("a streamed checkpoint is read by Orbax's own handlers")

    async def serialize(self, values, infos, args=None) -> list:
        """A future of `_write`: Orbax runs it when the folders are made."""
        return [ocp.future.CommitFutureAwaitingContractedSignals(self._write(values, infos))]

    async def _write(self, values, infos) -> None:
        """Writes the arrays one after the other, each in parts."""
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            part = part_shape(value.shape, value.dtype.itemsize)
            spec = ocp.type_handlers.get_json_tspec_write(
                info, use_ocdbt=info.is_ocdbt_checkpoint, global_shape=value.shape,
                local_shape=part, dtype=value.dtype, process_index=0,
            )
            store = await ts.open(
                ts.Spec(spec), create=True, open=True, context=info.ts_context
            )
            total, writes = 0, []
            for index in blocks(value.shape, part):
                block = value.make(index)
                writes.append(store[index].write(block))
                total += checksum_part(block, index, value.shape)
                if len(writes) > IN_FLIGHT:
                    await writes.pop(0)
                del block
            for write in writes:
                await write
            self.checksums[info.name] = [list(value.shape), value.dtype.name, total % 2**32]


def save_streamed(directory: Any, step: int, state: Any, meta: Meta) -> None:
    """Writes a checkpoint whose leaves are Streamed, in a directory that has no such step.

    Raises:
      UserError: the directory cannot be written, or the disk is full.
    """
    handler = _Handler()
    registry = ocp.type_handlers.create_type_handler_registry((Streamed, handler))
    folder = path(directory).resolve() / str(step)
    items = ocp.CompositeCheckpointHandler(
        # uncompressed: weights shrink by a fifth at best, and zstd is slower than most disks
        state=ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry, use_compression=False
        ),
        meta=ocp.JsonCheckpointHandler(),
    )
    try:
        with ocp.Checkpointer(items) as checkpointer:
            checkpointer.save(folder, ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave({}),
            ))
        # the checksums are known only now
        whole = {**meta, "step": step, "arrays": handler.checksums}
        whole["seal"] = seal(whole)
        ocp.JsonCheckpointHandler().save(folder / "meta", args=ocp.args.JsonSave(whole))
    except (OSError, ValueError) as error:
        raise storage_error(folder, error) from error


def read_streamed(
    directory: Any, step: int, meta: Meta, name: str
) -> Iterator[tuple[Index, np.ndarray]]:
    """The blocks of one array of a checkpoint, in the pieces in which it was written.

    `meta` is the step's, of `Checkpoints.read_meta`; its checksum is compared after the last block.

    Raises:
      Damaged: the array cannot be read, or is not what was saved.
    """
    folder = path(directory)
    folder = (folder if in_bucket(folder) else folder.resolve()) / str(step) / "state"
    shape, _, expected = meta["arrays"][name]
    total = 0
    try:
        info = ocp.type_handlers.ParamInfo(
            name=name, parent_dir=folder, is_ocdbt_checkpoint=(folder / "manifest.ocdbt").exists(),
            use_zarr3=False,
        )
        spec = ocp.type_handlers.get_json_tspec_read(info, use_ocdbt=info.is_ocdbt_checkpoint)
        context = ocp.type_handlers.get_ts_context(use_ocdbt=info.is_ocdbt_checkpoint)
        store = ts.open(ts.Spec(spec), open=True, context=context).result()
        part = store.chunk_layout.read_chunk.shape
        ahead = IN_FLIGHT if math.prod(part) * store.dtype.numpy_dtype.itemsize <= PART_BYTES else 0
        indices = list(blocks(tuple(shape), part))
        coming: list[Any] = []
        for number, index in enumerate(indices):
            for later in indices[number + len(coming) : number + ahead + 1]:
                coming.append(store[later].read())
            block = coming.pop(0).result()
            total += checksum_part(block, index, tuple(shape))
            yield index, block
            del block
    except (OSError, ValueError) as error:
        raise Damaged(step, f"{name} cannot be read ({damage_of(error)})") from error
    if total % 2**32 != expected:
        raise Damaged(step, f"{name} differs from what was saved")
