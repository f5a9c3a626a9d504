"""Memory and time of fine-tuning by each method on any machine, a laptop and single GPUs too."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm.core.errors import UserError, nearest
from jaxllm.plan.adapters import adapters
from jaxllm.plan.chips import ALIASES, CHIPS, GB, GIB, Chip
from jaxllm.plan.memory import Memory, fits, memory
from jaxllm.plan.remat import POLICIES
from jaxllm.plan.roofline import StepTime, step_time
from jaxllm.plan.search import hbm, meshes
from jaxllm.plan.slices import Slice, parse_slice
from jaxllm.plan.workload import Mesh, Workload

METHODS = ("full", "lora", "qlora")
REMATS = ("none", "mlp", "projections", "kv", "attention", "full")
MOST_MICROBATCHES = 64


@dataclass(frozen=True)
class Assumed(Chip):
    """A machine that no slice has: a laptop, or a single GPU, with the peak of its data sheet."""

    peak: float = 0.0

    @property
    def peak_flops(self) -> float:
        """FLOP/s in the dtype that it would compute in."""
        return self.peak


def _row(name: str, memory: float, tera: float, bandwidth: float, link: float, source: str):
    return Assumed(
        name, name, 1, 1, memory * GIB, bandwidth * GB, link * GB, 0, 0, 12.5 * GB, 0.0,
        64 * GB, 8, 12 * GB, 0, 0.8, source, tera * 1e12,
    )


# GiB, dense bfloat16 TFLOP/s, GB/s of memory, GB/s of the link between them [NVIDIA data sheets]
OTHERS = {
    chip.name: chip
    for chip in (
        _row("cpu", 12.0, 0.2, 40, 1, "assumed: a laptop of 8 cores and 16 GiB, in float32"),
        _row("t4", 15.0, 65, 320, 12, "NVIDIA's data sheet, float16"),
        _row("l4", 22.5, 121, 300, 25, "NVIDIA's data sheet"),
        _row("a10g", 22.5, 70, 600, 25, "NVIDIA's data sheet"),
        _row("rtx3090", 23.5, 71, 936, 25, "NVIDIA's data sheet"),
        _row("rtx4090", 23.5, 165, 1008, 25, "NVIDIA's data sheet"),
        _row("a100", 79.0, 312, 2039, 300, "NVIDIA's data sheet, 80 GB"),
    )
}


@dataclass(frozen=True)
class Cost:
    """The fastest way to train on a machine by a method, or the least that it would need."""

    fits: bool
    memory: Memory  # of a device
    step: StepTime
    mesh: Mesh
    remat: str
    accumulation: int
    trained: float  # parameters

    @property
    def tokens_per_second(self) -> float:
        """Of the whole machine."""
        return self.step.tokens_per_second


def find_machine(name: str, memory: float = 0.0, field: str = "--hardware") -> Slice:
    """The machine of a name: a slice as `parse_slice` knows it, h100x1, rtx4090, cpu.

    `memory` in GB of a device replaces the data sheet's.

    Raises:
      UserError: there is none of this name.
    """
    name = name.strip().lower()
    base, number = name, "1"
    if name not in OTHERS and (match := re.fullmatch(r"([a-z]\w*?)[x:](\d+)", name)):
        base, number = match.groups()
    if base in OTHERS:
        count = int(number)
        if not 1 <= count <= 8 or (base == "cpu" and count > 1):
            raise UserError(f"{field}={name!r}: name 1 to 8 of a host, such as {base}:1.")
        found = Slice(OTHERS[base], (1, count))
    elif base in CHIPS and not CHIPS[base].torus:
        found = parse_slice(f"{base}:{number}", field)
    elif _known(name):
        found = parse_slice(name, field)
    else:
        raise UserError(
            f"{field}={name!r} is no machine that is known here. "
            f"{nearest(name, (*OTHERS, *CHIPS), listed=False)} There are {', '.join(OTHERS)}, "
            "h100 and h200 (h100:8), and TPU slices such as v5e-8."
        )
    if memory:
        size = memory * GB * found.chip.devices
        found = dataclasses.replace(found, chip=dataclasses.replace(found.chip, hbm_bytes=size))
    return found


def _known(name: str) -> bool:
    chip = re.sub(r"^\d+x", "", name)
    chip = re.split(r"[-:]", chip)[0]
    return chip in CHIPS or chip in ALIASES


def cost(work: Workload, where: Slice, method: str) -> Cost:
    """The fastest mesh, remat policy and number of microbatches that fit; else the leanest."""
    trained = work.shape.parameters if method == "full" else adapters(work.shape)
    work = dataclasses.replace(work, method=method, trained=trained)
    leanest: Cost | None = None
    times = 1
    while times <= min(work.rows, MOST_MICROBATCHES):
        micro = dataclasses.replace(work, accumulation=times)
        every = list(_choices(micro, where))
        if able := [one for one in every if one.fits]:
            return min(able, key=lambda one: one.step.total)
        for one in every:
            if leanest is None or one.memory.total < leanest.memory.total:
                leanest = one
        times *= 2
    if leanest is None:
        raise UserError(f"No mesh of {where.name} divides the model.")
    return leanest


def _choices(work: Workload, where: Slice) -> Iterator[Cost]:
    kernel = work.kernel(where.chip)
    for mesh in meshes(work, where):
        if mesh.context > 1 or mesh.stage > 1 or mesh.tensor > 8:
            continue  # of no use to models and rows of these sizes
        for name in REMATS:
            remat = POLICIES[name]
            used = memory(work, mesh, remat, kernel)
            step = step_time(work, where, mesh, remat, kernel)
            yield Cost(
                fits(used, hbm(where)), used, step, mesh, name, work.accumulation, work.trained,
            )
