"""The step as a program: what a run compiles for its devices, and `jaxllm check` ahead of them.

Both go through `compile_step`, so that what was checked is what runs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding, check_batch
from jaxllm.data.batch import Batch
from jaxllm.data.config import DataConfig
from jaxllm.models.config import ModelConfig
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import HEADROOM, HOST_SHARE, Config, TrainConfig
from jaxllm.train.distill.cache import read_info
from jaxllm.train.distill.loss import teacher_shapes
from jaxllm.train.feed import batch_shapes
from jaxllm.train.losses import LossOptions
from jaxllm.train.minimised import step_loss
from jaxllm.train.state import Setup, TrainState, make_setup
from jaxllm.train.step import jit_train_step

# Policies as `candidates` orders them: nothing offloaded, the least recomputation first; then those
# that `jaxllm plan` reckons slower, or only as fast while the host's link keeps up.
ON_DEVICE = ("none", "mlp", "projections", "kv", "attention")
ON_HOST = (
    "kv_input_offload", "attention_input_offload", "full", "attention_offload",
    "full_input_offload",
)
SPARING = ("attention", "attention_offload", "full_input_offload")  # with more microbatches
BOOLS = {"true": True, "false": False}  # as values of train.xla_options, in any case


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


def xla_options(config: TrainConfig, device: jax.Device) -> dict[str, str | bool]:
    """The compiler's options: those of the chip's preset, and the recipe's `train.xla_options`.

    true and false become bools: as text XLA takes only "True" and "False" for its own options.

    Raises:
      UserError: an option that is not written name=value.
    """
    options: dict[str, str | bool] = {}
    if config.xla_preset:
        for preset in PRESETS:
            if any(kind in device.device_kind for kind in preset.kinds) and _installed(preset):
                options.update(preset.options)
    for option in config.xla_options:
        name, sign, value = option.partition("=")
        if not sign:
            raise UserError(f"train.xla_options has {option!r}: write name=value.")
        value = value.strip()
        options[name.strip().lstrip("-")] = BOOLS.get(value.lower(), value)
    return options


def check_accepted(options: dict[str, str | bool], device: jax.Device) -> None:
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


def trace_step(
    config: Config, setup: Setup, options: LossOptions, state: TrainState, batch: Batch,
) -> tuple[jax.stages.Traced, dict[str, str | bool]]:
    """The step for states and batches like these (arrays, or their shapes), not yet lowered.

    Also gives the compiler's options.
    """
    device = setup.compute.sharding.mesh.local_devices[0]  # the options are tried on it
    chosen = xla_options(config.train, device)
    check_accepted(chosen, device)
    loss = step_loss(config.tune, setup, options, setup.teacher)
    step = jit_train_step(setup, options, config.train.grad_accumulation, config.seed, loss)
    return step.trace(state, batch), chosen


def compile_step(
    config: Config, setup: Setup, options: LossOptions, state: TrainState, batch: Batch,
    extra: dict[str, str] | None = None,
) -> jax.stages.Compiled:
    """The compiled step for states and batches like these (arrays, or their shapes)."""
    traced, chosen = trace_step(config, setup, options, state, batch)
    return traced.lower().compile(compiler_options={**chosen, **(extra or {})} or None)


def setup_of(config: Config, model: ModelConfig, sharding: Sharding) -> Setup:
    """The setup of a run's model, whose `train.remat` names a policy."""
    train = config.train
    compute = make_compute(
        sharding, dtype=train.dtype, param_dtype=train.param_dtype, remat=train.remat,
        attention=train.attention, unroll=train.unroll, mlp_chunk=train.mlp_chunk,
    )
    tune, teacher = config.tune, None
    if tune.distillation.teacher:
        teacher = teacher_shapes(tune.distillation.teacher, compute)
    return make_setup(
        model, compute, config.optimizer, train.steps, tune.l2_to_base,
        anchored=tune.robust.needs_anchor(), teacher=teacher,
    )


def with_remat(
    config: Config, model: ModelConfig, sharding: Sharding, lengths: tuple[int, int],
    targets_per_row: int, room: float | None, say: Callable[[str], None],
    host_room: float | None = None,
) -> Config:
    """`config` with `train.remat="auto"` made the first of `candidates` that fits.

    The step is compiled for one after the other until the compiler's own figure is at most `room`,
    bytes of a device (None: any), with HEADROOM left free, and what lies on the host at most
    `host_room`, bytes of a device's part of it (None: what this machine says). Of several hosts all
    take the same. What was tried and what it came to is told to `say`.

    Raises:
      UserError: none fits.
    """
    if config.train.remat != "auto":
        return config
    every = candidates(config, sharding)
    if room is None:
        return every[0]
    host_room = host_room or host_room_of(sharding)
    say(
        "train.remat='auto' compiles the step until it fits. It may set train.remat, then "
        "train.grad_accumulation, which changes only the order of sums (and dropout's masks), then "
        "optimizer.placement."
    )
    batch = batch_shapes(
        example_batch(config.data, lengths, config.tune.distillation.cache), sharding,
        config.data.global_batch_size,
    )
    for tried in every:
        setup = setup_of(tried, model, sharding)
        options = loss_options(tried, model, targets_per_row)
        name = _settings(tried, config)
        try:
            compiled = compile_step(tried, setup, options, abstract_state(setup), batch)
        except RuntimeError as error:  # jax's own: what does not fit a TPU does not compile
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            said, fits = "does not fit", False
        else:
            memory = compiled.memory_analysis()
            total, host = allocated(memory), on_host(memory)
            beside = f", {host / 1e9:.2f} GB on the host" if host else ""
            said = f"{total / 1e9:.2f} of {room / 1e9:.2f} GB{beside}"
            fits = total <= (1 - HEADROOM) * room and (host_room is None or host <= host_room)
        say(f"{name}: {said}")
        if on_all_hosts(fits):  # GPUs' compilers measure, and may come to other programs
            return tried
    raise UserError(
        "train.remat='auto': the step does not fit with any policy, number of microbatches or "
        "place of the optimizer. Lower data.global_batch_size, or use more devices."
    )


def candidates(config: Config, sharding: Sharding) -> list[Config]:
    """What `train.remat="auto"` may come to, the fastest first.

    The order is that of `jaxllm plan` for Llama 3.1 8B, 70B and 405B on v5p and v6e. Policies that
    keep all on the device come first, the least recomputation before more. Then what can be had
    back from the host behind a layer's compute, which costs less time than to compute it again.
    Then twice the microbatches, and twice again, as long as the batch divides: weights are gathered
    once more for each. The optimizer on the host comes last: nothing hides its way there and back.
    """
    def with_(remat: str, times: int = 1, placement: str = config.optimizer.placement) -> Config:
        accumulation = config.train.grad_accumulation * times
        return dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, remat=remat, grad_accumulation=accumulation),
            optimizer=dataclasses.replace(config.optimizer, placement=placement),
        )

    found = [with_(remat) for remat in (*ON_DEVICE, *ON_HOST)]
    doubled, times = [], 2
    while _divides(config, sharding, times):
        doubled.append(times)
        times *= 2
    found += [with_(remat, times) for times in doubled for remat in SPARING]
    if config.optimizer.placement == "device":
        found += [with_(remat, times, "host") for times in (1, *doubled) for remat in SPARING]
    return found


def _divides(config: Config, sharding: Sharding, times: int) -> bool:
    """Whether the batch divides into so many times the recipe's microbatches."""
    rows, accumulation = config.data.global_batch_size, config.train.grad_accumulation * times
    try:
        check_batch(sharding, rows, "--config.data.global_batch_size", accumulation)
    except UserError:
        return False
    return True


def _settings(tried: Config, config: Config) -> str:
    """What `tried` has and `config` has not, as a person would write it."""
    text, train = f"train.remat={tried.train.remat}", tried.train
    if train.grad_accumulation != config.train.grad_accumulation:
        text += f" train.grad_accumulation={train.grad_accumulation}"
    if tried.optimizer.placement != config.optimizer.placement:
        text += f" optimizer.placement={tried.optimizer.placement}"
    return text


def on_all_hosts(fine: bool) -> bool:
    """Whether it is so on every host of the run; all of them wait for each other here."""
    if jax.process_count() == 1:
        return fine
    return bool(np.all(multihost_utils.process_allgather(np.array([fine]))))


def host_room_of(sharding: Sharding) -> float | None:
    """Bytes of this host's memory that a device's arrays may take, the least of all hosts.

    None: the devices are descriptions, or the machine does not say.
    """
    device = sharding.mesh.devices.flat[0]
    if device not in jax.devices() or not hasattr(os, "sysconf"):
        return None
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = HOST_SHARE * whole / jax.local_device_count()
    if jax.process_count() == 1:
        return room
    return float(multihost_utils.process_allgather(np.float32(room)).min())


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


def on_host(memory: Any) -> int:
    """Bytes of a device's part of the host's memory that a program has, of its memory analysis."""
    arguments = getattr(memory, "host_argument_size_in_bytes", 0)
    outputs = getattr(memory, "host_output_size_in_bytes", 0)
    reused = getattr(memory, "host_alias_size_in_bytes", 0)
    return getattr(memory, "host_temp_size_in_bytes", 0) + arguments + outputs - reused


def abstract_state(setup: Setup) -> TrainState:
    """The state as shapes in their places."""
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        setup.shapes, setup.shardings,
    )


def example_batch(data: DataConfig, lengths: tuple[int, int], cache: str = "") -> Batch:
    """A batch of one row of zeros, with the arrays that the objective makes.

    `lengths` are those of `Objective.lengths`; `cache` is `tune.distillation.cache`.
    """
    ids, encoder = (np.zeros((1, n), np.int32) if n else None for n in lengths)
    segments = ids if data.block_cross_document_attention or encoder is not None else None
    prefix = ids if data.objective == "prefix_lm" else None
    batch = Batch(
        ids, ids, ids.astype(np.float32), ids, segments, prefix, encoder, encoder, encoder
    )
    if not cache:
        return batch
    kept = np.zeros((*ids.shape, read_info(cache).top_k), np.int32)
    return batch._replace(teacher_ids=kept, teacher_logprobs=kept.astype(np.float32))


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
