"""The step as a program: what a run compiles for its devices, and `jaxllm check` ahead of them.

Both go through `compile_step`, so that what was checked is what runs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.models.config import ModelConfig
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import Config, TrainConfig
from jaxllm.train.feed import batch_shapes
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import Setup, TrainState, make_setup
from jaxllm.train.step import jit_train_step

# From the least recomputation to the most.
BY_RECOMPUTATION = ("none", "mlp", "projections", "kv", "attention", "full")
HEADROOM = 0.05  # of a device's memory, that train.remat="auto" leaves free


@dataclass(frozen=True)
class XlaPreset:
    """Options of the compiler for some chips, and the libtpu versions that they were tried with."""

    kinds: tuple[str, ...]  # parts of jax's device_kind
    since: str  # libtpu, included
    before: str  # libtpu, excluded
    options: dict[str, str]


PRESETS = (
    XlaPreset(
        ("TPU v4", "TPU v5", "TPU v6", "TPU7x"), "0.0.42", "0.1",
        # Products whose gradient is scattered, or whose weight is gathered, are not to be cut into
        # loops of permutes: weights are gathered a layer ahead, gradients are scattered by name.
        {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"},
    ),
)


def xla_options(config: TrainConfig, device: jax.Device) -> dict[str, str]:
    """The compiler's options: those of the chip's preset, and the recipe's `train.xla_options`.

    Raises:
      UserError: an option that is not written name=value.
    """
    options: dict[str, str] = {}
    if config.xla_preset:
        for preset in PRESETS:
            if any(kind in device.device_kind for kind in preset.kinds) and _installed(preset):
                options.update(preset.options)
    for option in config.xla_options:
        name, sign, value = option.partition("=")
        if not sign:
            raise UserError(f"train.xla_options has {option!r}: write name=value.")
        options[name.strip().lstrip("-")] = value.strip()
    return options


def check_accepted(options: dict[str, str], device: jax.Device) -> None:
    """Refuses options that the installed compiler does not know, in a second and not in minutes.

    Raises:
      UserError: naming the option and the compiler's version.
    """
    if not options:
        return
    place = jax.sharding.SingleDeviceSharding(device)
    shape = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=place)
    try:
        jax.jit(lambda x: x + 1).lower(shape).compile(compiler_options=options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        named = next((name for name in options if name in str(error)), "")
        what = f"the option {named}" if named else "these options"
        ours = any(named in preset.options for preset in PRESETS)
        fix = "Set train.xla_preset=False" if ours else "Remove it"
        raise UserError(
            f"train.xla_options: the installed compiler ({compiler_version(device)}) does not take "
            f"{what}: {reason}. {fix}, or install the version that it was written for."
        ) from error


def compiler_version(device: jax.Device) -> str:
    """Such as "libtpu 0.0.42.1"; jaxlib's where the compiler is part of it."""
    package = "libtpu" if "TPU" in device.device_kind else "jaxlib"
    return f"{package} {_version(package)}"


def loss_options(config: Config, model: ModelConfig, targets_per_row: int) -> LossOptions:
    """The loss of a run."""
    train = config.train
    return LossOptions(
        train.z_loss, train.label_smoothing, model.logit_softcap, train.loss_chunk,
        targets_per_row=targets_per_row,
    )


def compile_step(
    config: Config, setup: Setup, options: LossOptions, state: TrainState, batch: Batch,
    extra: dict[str, str] | None = None,
) -> jax.stages.Compiled:
    """The compiled step for states and batches like these (arrays, or their shapes)."""
    device = setup.compute.sharding.mesh.devices.flat[0]
    chosen = xla_options(config.train, device)
    check_accepted(chosen, device)
    step = jit_train_step(setup, options, config.train.grad_accumulation, config.seed)
    return step.lower(state, batch).compile(compiler_options={**chosen, **(extra or {})} or None)


def setup_of(config: Config, model: ModelConfig, sharding: Sharding) -> Setup:
    """The setup of a run's model, whose `train.remat` names a policy."""
    train = config.train
    compute = make_compute(
        sharding, dtype=train.dtype, param_dtype=train.param_dtype, remat=train.remat,
        attention=train.attention, unroll=train.unroll, mlp_chunk=train.mlp_chunk,
    )
    return make_setup(model, compute, config.optimizer, train.steps)


def with_remat(
    config: Config, model: ModelConfig, sharding: Sharding, lengths: tuple[int, int],
    targets_per_row: int, room: float | None, say: Callable[[str], None],
) -> Config:
    """`config` with `train.remat="auto"` made the policy of least recomputation that fits.

    The step is compiled for one policy after the other until the compiler's own figure is at most
    `room`, bytes of a device (None: any), with HEADROOM left free.

    Raises:
      UserError: none fits.
    """
    if config.train.remat != "auto":
        return config
    batch = batch_shapes(
        example_batch(config.data, lengths), sharding, config.data.global_batch_size
    )
    for name in BY_RECOMPUTATION:
        tried = dataclasses.replace(config, train=dataclasses.replace(config.train, remat=name))
        setup = setup_of(tried, model, sharding)
        if room is None:
            return tried
        options = loss_options(tried, model, targets_per_row)
        try:
            compiled = compile_step(tried, setup, options, abstract_state(setup), batch)
        except RuntimeError as error:  # jax's own: what does not fit a TPU does not compile
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            say(f"train.remat={name}: does not fit")
            continue
        total = allocated(compiled.memory_analysis())
        say(f"train.remat={name}: {total / 1e9:.2f} of {room / 1e9:.2f} GB")
        if total <= (1 - HEADROOM) * room:
            return tried
    raise UserError(
        "train.remat='auto': the step does not fit with any policy. Lower "
        "data.global_batch_size, raise train.grad_accumulation, or use more devices."
    )


def room_of(device: jax.Device) -> float | None:
    """Bytes that programs may use of a device, the least of all hosts; None: it does not say (CPU).
    """
    stats = device.memory_stats() if hasattr(device, "memory_stats") else None
    room = (stats or {}).get("bytes_limit")
    if room is None or jax.process_count() == 1:
        return room
    return float(multihost_utils.process_allgather(np.float32(room)).min())


def allocated(memory: Any) -> int:
    """Bytes that a program has on a device at once, of its memory analysis.

    jax 0.12 says so; the peak of older ones is within 3 %.
    """
    return getattr(memory, "total_allocation_bytes", 0) or memory.peak_memory_in_bytes


def abstract_state(setup: Setup) -> TrainState:
    """The state as shapes in their places."""
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        setup.shapes, setup.shardings,
    )


def example_batch(data: DataConfig, lengths: tuple[int, int]) -> Batch:
    """A batch of one row of zeros, with the arrays that the objective makes.

    `lengths` are those of `Objective.lengths`.
    """
    ids, encoder = (np.zeros((1, n), np.int32) if n else None for n in lengths)
    segments = ids if data.block_cross_document_attention or encoder is not None else None
    prefix = ids if data.objective == "prefix_lm" else None
    return Batch(
        ids, ids, ids.astype(np.float32), ids, segments, prefix, encoder, encoder, encoder
    )


def _installed(preset: XlaPreset) -> bool:
    found = _numbers(_version("libtpu"))
    return _numbers(preset.since) <= found < _numbers(preset.before)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
