"""Checkpoints: written asynchronously by Orbax, whole or not at all, proven when read back.

A step directory holds the state and a `meta` item: configuration, data fingerprint, tokenizer
hash and a checksum of every array. The checksum is integer arithmetic on the bits, so it does not
depend on the mesh; a state that restores with another checksum was damaged on disk, and the step
before it is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxllm.core.errors import UserError
from jaxllm.core.paths import in_bucket, make_directory, path, unwritable
from jaxllm.core.quiet import quiet_orbax

Meta = dict[str, Any]
managers = ocp.checkpoint_managers
quiet_orbax()


class Checkpoints:
    """The checkpoints of a run directory."""

    def __init__(self, directory, *, keep: int = 0, keep_best: int = 0):
        """Keeps the `keep` newest steps and the `keep_best` of lowest validation loss.

        With `keep` 0 the directory is only read.
        """
        self.directory = path(directory)
        if not in_bucket(directory):
            self.directory = self.directory.resolve()  # Orbax wants absolute paths
        self._writes = keep > 0
        if self._writes:
            make_directory(self.directory)  # a file in the way is told now, not at the first save
        options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0)
        if self._writes:
            best = managers.BestN(
                get_metric_fn=lambda metrics: -metrics["loss"], n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [managers.LatestN(keep), best]
                ),
                # without these two Orbax forgets the losses when the process ends
                best_fn=(lambda metrics: metrics["loss"]) if keep_best else None,
                best_mode="min",
                cleanup_tmp_directories=True,
            )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_names=("state", "meta")
            )
        except OSError as error:
            raise unwritable(self.directory, error) from error

    def steps(self) -> list[int]:
        """The steps saved, oldest first, damaged ones included."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: Meta, validation_loss: float | None) -> None:
        """Starts writing the state; returns when the devices' memory may be reused."""
        meta = {**meta, "step": step, "arrays": describe(state)}
        meta["seal"] = seal(meta)
        metrics = None if validation_loss is None else {"loss": validation_loss}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
                ),
                metrics=metrics,
                force=True,
            )
        except (OSError, ValueError) as error:
            raise storage_error(self.directory, error) from error

    def wait(self) -> None:
        """Blocks until everything started is on disk."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise storage_error(self.directory, error) from error

    def close(self) -> None:
        """Waits, and lets the background threads go."""
        self.wait()
        self._manager.close()

    def read_meta(self, step: int) -> Meta:
        """The `meta` item of a step.

        Raises:
          Damaged: it cannot be read.
        """
        folder, meta, reason = self.directory / str(step), {}, None
        if not (folder / "_CHECKPOINT_METADATA").exists() or not (folder / "state").exists():
            reason = "it was never completed"
        else:
            try:
                meta = ocp.JsonCheckpointHandler().restore(folder / "meta")
                if meta["seal"] != seal(meta):
                    reason = "its meta item differs from what was saved"
            except Exception as error:
                reason = f"its meta item cannot be read ({damage_of(error)})"
        _agree(step, reason)
        return meta

    def restore(self, step: int, target: Any, *, cast: bool = False) -> Any:
        """The state of `step` with the shapes and shardings of `target` (ShapeDtypeStructs).

        `target` may be a part of the saved tree, such as {"params": …}. With `cast` its dtypes may
        differ from the saved ones.

        Raises:
          Damaged: files are missing, unreadable, or do not match the checksums saved with them.
          UserError: the saved arrays have other shapes or dtypes.
        """
        saved = self.read_meta(step)["arrays"]
        wanted, target = target, _as_saved(step, target, saved, cast)
        reason, restored = None, None
        arguments = ocp.args.PyTreeRestore(
            target, partial_restore=True,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        )
        # The handlers are asked, not the manager: it makes the hosts wait for each other, and a
        # host whose part is damaged would leave the others waiting.
        try:
            folder = self.directory / str(step) / "state"
            restored = ocp.PyTreeCheckpointHandler().restore(folder, args=arguments)
        except Exception as error:
            reason = f"its arrays cannot be read ({damage_of(error)})"
        _agree(step, reason)  # before the checksums, which all hosts compute together
        for name, found in describe(restored).items():
            if found != saved[name]:
                raise Damaged(step, f"{name} differs from what was saved")
        return jax.tree.map(lambda x, like: x.astype(like.dtype), restored, wanted)

    def restore_newest(
        self, target: Any, warn: Callable[[str], None], accept: Callable[[Meta], None]
    ) -> tuple[Any, Meta] | None:
        """The newest state that is whole, with its meta; None when nothing was ever saved.

        `accept` sees the meta before anything large is read and raises UserError to refuse it.
        Damaged steps are reported through `warn` and the one before is tried; a directory that
        is written to has them renamed to STEP.damaged, once a whole one is found.

        Raises:
          UserError: every checkpoint is damaged; all are left as they are, or the same command
            would find none next time and begin anew.
        """
        steps, damaged = self.steps(), []
        for step in reversed(steps):
            try:
                meta = self.read_meta(step)
                accept(meta)
                state = self.restore(step, target, cast=not self._writes)
            except Damaged as damage:
                damaged.append(step)
                warn(str(damage) + (" The one before it is tried." if step > steps[0] else ""))
                continue
            for other in damaged if self._writes else ():
                self._set_aside(other)
            return state, meta
        if steps:
            raise UserError(
                f"Every checkpoint in {self.directory} is damaged (steps "
                f"{', '.join(map(str, steps))}). Restore a copy of the folder, or train again "
                "into another --workdir."
            )
        return None

    def _set_aside(self, step: int) -> None:
        """Renames a damaged step so that the run may write that step again."""
        if jax.process_index() == 0:
            folder = self.directory / str(step)
            target, count = self.directory / f"{step}.damaged", 1
            while target.exists():
                count += 1
                target = self.directory / f"{step}.damaged{count}"
            folder.rename(target)
        _on_any_host(True)  # wait for the rename
        self._manager.reload()


class Damaged(Exception):
    """A checkpoint that cannot be trusted."""

    def __init__(self, step: int, reason: str):
        super().__init__(f"The checkpoint of step {step} is damaged: {reason}.")


def seal(meta: Meta) -> str:
    """A hash of everything else in the meta item."""
    content = {name: value for name, value in meta.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _agree(step: int, reason: str | None) -> None:
    """Raises Damaged on every host when any host has a reason to."""
    if _on_any_host(reason is not None):
        raise Damaged(step, reason or "another host could not read its part")


def damage_of(error: Exception) -> str:
    """What a read that failed says of the file; what does not look like damage is raised again.

    A network that is down or memory that is short must not cost the newest checkpoint.
    """
    inner, said = error, str(error)
    while inner.__cause__:  # Orbax's own words say less
        inner = inner.__cause__
        said += str(inner)
    elsewhere = isinstance(inner, OSError) and inner.errno not in (None, errno.ENOENT)
    if elsewhere or isinstance(inner, MemoryError) or any(sign in said for sign in NOT_DAMAGE):
        raise error
    first = str(inner).strip().partition("\n")[0]
    noise = r'<[^<>]* object at [^<>]*>|<bound method [^<>]*>| at local file "[^"]*"|\[source.*'
    text = " ".join(re.sub(noise, "", first).split())
    return f"{type(inner).__name__}: {text[:160] or 'no reason given'}"


NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED")


def storage_error(directory, error: Exception) -> Exception:
    """The user's view of a write that failed; the storage layer hides the number in a text."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if not isinstance(error, OSError):
        return error
    return unwritable(directory, error)


def _as_saved(step: int, target: Any, saved: dict[str, list], cast: bool) -> Any:
    """`target` with the dtypes on disk."""

    def leaf(key_path: Any, wanted: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = _name(key_path)
        if name not in saved:
            raise UserError(f"The checkpoint of step {step} has no {name}: it is of another model.")
        shape, dtype, _ = saved[name]
        if tuple(shape) != wanted.shape or (dtype != wanted.dtype.name and not cast):
            raise UserError(
                f"The checkpoint of step {step} holds {name} as {dtype}{shape}, and the run wants "
                f"{wanted.dtype.name}{list(wanted.shape)}. Restore train.param_dtype and "
                "optimizer.moment_dtype, or choose another --workdir."
            )
        return jax.ShapeDtypeStruct(wanted.shape, jnp.dtype(dtype), sharding=wanted.sharding)

    return jax.tree_util.tree_map_with_path(leaf, target)


def _on_any_host(flag: bool) -> bool:
    """Whether the flag is set on any host; all hosts wait for each other here."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def describe(tree: Any) -> dict[str, list]:
    """Shape, dtype and a 32-bit checksum of every array's bits, by dotted path.

    The checksum does not depend on the sharding.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    values = jax.device_get(_checksum_all([leaf for _, leaf in leaves]))
    return {
        _name(key): [list(leaf.shape), leaf.dtype.name, int(value)]
        for (key, leaf), value in zip(leaves, values, strict=True)
    }


@jax.jit
def _checksum_all(leaves: list[jax.Array]) -> list[jax.Array]:
    # an optimizer's state may lie in the host's memory
    return [_checksum(jax.device_put(leaf, jax.memory.Space.Device)) for leaf in leaves]


def checksum_part(block: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """The block's share of the checksum of an array of `shape`, which is the sum of all shares."""
    starts = np.array([cut.start for cut in index], np.uint32)
    return int(_checksum_block(block, starts, shape))


@partial(jax.jit, static_argnums=2)
def _checksum_block(x: jax.Array, starts: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _checksum(x, starts, shape)


def _checksum(
    x: jax.Array, starts: Sequence[int] | jax.Array = (), shape: tuple[int, ...] = ()
) -> jax.Array:
    """Sum over elements of hash(bits + index · odd constant), modulo 2³².

    With `starts` the elements are those of a block that begins there in an array of `shape`.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[np.dtype(x.dtype).itemsize]
    words = jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    shape = shape or words.shape
    stride = 1
    for axis in reversed(range(words.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        if len(starts):
            place += starts[axis]
        index += place * jnp.uint32(stride)
        stride = stride * shape[axis] % 2**32
    mixed = words + index * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


def _name(key_path: Any) -> str:
    parts = []
    for key in key_path:
        # dictionaries, named tuples and tuples may have become dictionaries on disk
        parts.append(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))))
    return ".".join(parts)
