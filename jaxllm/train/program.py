"""The step as a program: what a run compiles for its devices, and `jaxllm check` ahead of them.

Both go through `compile_step`, so that what was checked is what runs.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.models.config import ModelConfig
from jaxllm.train.config import Config, TrainConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import Setup, TrainState
from jaxllm.train.step import jit_train_step


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
        raise UserError(
            f"train.xla_options: the installed compiler ({compiler_version(device)}) does not take "
            f"{what}: {reason}. Remove it, or install the version that the recipe was written for."
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
