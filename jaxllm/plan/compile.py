"""The real training step compiled for chips that are not here: memory, collectives, code, seconds.

XLA compiles for a TPU slice or a GPU from a description of it. Nothing is executed: every figure
is the compiler's, read from its memory analysis and from the program after partitioning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.core.errors import UserError
from jaxllm.plan.hlo import Traffic, collectives
from jaxllm.plan.search import hbm, host_room
from jaxllm.plan.slices import Slice
from jaxllm.plan.workload import lengths_of
from jaxllm.train.config import Config

if TYPE_CHECKING:
    import jax

    from jaxllm.data.batch import Batch
    from jaxllm.train.losses import LossOptions
    from jaxllm.train.state import Setup

# Before jax is imported: its own device is a CPU, and libtpu does not look for a machine.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
}
INSTALL = {"tpu": ("libtpu", "pip install -e '.[tpu]' -c constraints.txt"),
           "cuda": ("jax_plugins", "pip install -e '.[cuda]' -c constraints.txt")}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step, per device; bytes unless named otherwise."""

    remat: str  # the policy: the recipe's, or what its "auto" came to, as the next two
    accumulation: int  # microbatches of a step
    placement: str  # of the optimizer
    compiler: str  # such as "jax 0.12.0, libtpu 0.0.50.1"
    arguments: int  # state and batch
    temporaries: int
    outputs: int
    aliased: int  # of the outputs, that reuse the arguments' memory
    total: int  # allocated at once, the most
    host: int  # of the host's memory: what is offloaded, and the optimizer if it lies there
    code: int
    seconds: float  # to trace, lower and compile
    traffic: dict[str, Traffic]
    kernels: int  # calls of Pallas or cuDNN kernels in the program
    program: Any = dataclasses.field(repr=False, compare=False)  # jax.stages.Compiled
    # A device's share of each part of the state, by TrainState's names; not the compiler's figures.
    parts: dict[str, int] = dataclasses.field(default_factory=dict)


def devices_of(where: Slice) -> list[jax.Device]:
    """Descriptions of the slice's devices, for the compiler.

    Raises:
      UserError: the compiler for these chips is not installed, or does not know the slice.
    """
    platform = "tpu" if where.chip.torus else "cuda"
    package, command = INSTALL[platform]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"The compiler for {where.chip.name} is not installed here (no {package}). It needs no "
            f"accelerator: {command}"
        )
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": where.count} if where.count > 1 else {}
    if where.chip.cores > where.chip.devices == 1:  # as on the machine: one device of two cores
        options["chip_config_name"] = "megacore"
    try:
        with _quiet():
            return topologies.get_topology_desc(
                platform=platform, topology_name=where.one, **options
            ).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"The installed compiler does not know the slice {where.name}: {reason}"
        ) from error


def compile_for(
    config: Config, where: Slice, devices: list[jax.Device],
    say: Callable[[str], None] = lambda text: None,
) -> Compiled:
    """The step of a recipe compiled for a slice; `config.model.vocab_size` must be set.

    Raises:
      UserError: whatever a run on that slice would refuse before its first step.
    """
    import jax

    from jaxllm.train import program

    config, setup, options, batch = _step_of(config, where, devices, say)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        compiled = program.compile_step(
            config, setup, options, program.abstract_state(setup), batch,
            {"xla_dump_to": folder, "xla_dump_hlo_pass_re": ".*spmd-partition.*"},
        )
        seconds = time.perf_counter() - begin
        partitioned = _partitioned(Path(folder))
    memory, text = compiled.memory_analysis(), compiled.as_text()
    own = program.compiler_version(devices[0])
    return Compiled(
        remat=config.train.remat, accumulation=config.train.grad_accumulation,
        placement=config.optimizer.placement, compiler=f"jax {jax.__version__}, {own}",
        arguments=memory.argument_size_in_bytes, temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes, aliased=memory.alias_size_in_bytes,
        total=program.allocated(memory), host=program.on_host(memory),
        code=memory.generated_code_size_in_bytes, seconds=seconds,
        traffic=collectives(partitioned or text),
        kernels=text.count("tpu_custom_call") + text.count("__cudnn$"), program=compiled,
        parts=_parts(setup),
    )


def save_for(
    config: Config, where: Slice, devices: list[jax.Device], folder: str, step: Compiled
) -> int:
    """Compiles what gave `step` once more for a run to load from `folder`; the bytes written.

    Once more, because the executable keeps the options that have the compiler write its passes.

    Raises:
      UserError: the folder cannot be written.
    """
    from jaxllm.train.compiled import compile_and_save

    train = dataclasses.replace(
        config.train, remat=step.remat, grad_accumulation=step.accumulation
    )
    optimizer = dataclasses.replace(config.optimizer, placement=step.placement)
    config, setup, options, batch = _step_of(
        dataclasses.replace(config, train=train, optimizer=optimizer), where, devices
    )
    with _quiet():
        return compile_and_save(folder, config, setup, options, batch, step.seconds)


def _step_of(
    config: Config, where: Slice, devices: list[jax.Device],
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Config, Setup, LossOptions, Batch]:
    """What a run on that slice compiles its step of, with its remat policy settled."""
    from jaxllm.core.mesh import check_batch, check_length, make_sharding
    from jaxllm.train import program
    from jaxllm.train.feed import batch_shapes

    data = config.data
    sharding = make_sharding(config.mesh, devices)
    check_batch(sharding, data.global_batch_size, "--config.data.global_batch_size",
                config.train.grad_accumulation)
    found = lengths_of(config)
    lengths = (found.own, found.encoder)
    check_length(sharding, lengths)
    config = program.with_remat(
        config, config.model, sharding, lengths, found.scored, hbm(where), say, host_room(where)
    )
    setup = program.setup_of(config, config.model, sharding)
    example = program.example_batch(data, lengths, config.tune.distillation.cache)
    batch = batch_shapes(example, sharding, data.global_batch_size)
    return config, setup, program.loss_options(config, config.model, found.scored), batch


def _parts(setup: Setup) -> dict[str, int]:
    """Bytes of a device's share of each part of the state."""
    import jax

    def share(shape: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> int:
        return math.prod(place.shard_shape(shape.shape)) * shape.dtype.itemsize

    pairs = zip(setup.shapes._fields, setup.shapes, setup.shardings, strict=True)
    return {
        name: sum(jax.tree.leaves(jax.tree.map(share, shapes, places)))
        for name, shapes, places in pairs
    }


def _partitioned(folder: Path) -> str:
    """The text of the step's module after partitioning; "" when the compiler wrote none."""
    named = re.compile(r"after_[\w-]*spmd-partitioning")
    files = sorted(
        (file for file in folder.iterdir() if named.search(file.name)),
        key=lambda file: file.stat().st_size,
    )
    return files[-1].read_text(errors="replace") if files else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps libtpu's own lines about a machine that is not there off the screen."""
    if os.environ.get("JAXLLM_COMPILER_LOG"):
        yield
        return
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
