"""Memory and time of fine-tuning: `memory.py` and `roofline.py` for a step that trains a part.

Full tuning keeps float32 parameters, gradients and AdamW's moments, 16 bytes each. Of LoRA only the
adapters have those: the base lies in bfloat16, of QLoRA the layers' matrices in nf4 with double
quantisation. A frozen matrix has no gradient, a third of its products.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm.core.errors import UserError, nearest
from jaxllm.plan.chips import ALIASES, CHIPS, GB, GIB, Chip
from jaxllm.plan.memory import Memory, fits, memory
from jaxllm.plan.remat import POLICIES
from jaxllm.plan.roofline import EFFICIENCY, StepTime, step_time
from jaxllm.plan.search import hbm, meshes
from jaxllm.plan.shapes import ModelShape, Weight
from jaxllm.plan.slices import Slice, parse_slice
from jaxllm.plan.workload import Mesh, Workload, per_device

METHODS = ("full", "lora", "qlora")
RANK = 16  # of the adapters, on every matrix of the layers
# Dettmers et al. 2023: 4 bits, an 8-bit scale for 64 of them, a float32 scale for 256 of those
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
REMATS = ("none", "mlp", "projections", "kv", "attention", "full")
MOST_MICROBATCHES = 64
FORWARD_AND_INPUTS = 2 / 3  # of a product's three passes, where its matrix stays as it is
DEQUANTISED = 3  # times a step: forward, again for the backward pass, backward


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


def adapters(shape: ModelShape, rank: int = RANK) -> float:
    """Parameters of adapters of this rank on every matrix of the layers."""
    return sum(
        tower.layers * sum(_adapter(w, rank) for w in tower.layer if w.kernel)
        for tower in shape.towers
    )


def base_bytes(shape: ModelShape, method: str) -> float:
    """Bytes of the parameters of a model that is tuned by this method, adapters left out."""
    kernels = sum(t.layers * sum(w.size for w in t.layer if w.kernel) for t in shape.towers)
    if method == "full":
        return 4.0 * shape.parameters
    quantised = kernels if method == "qlora" else 0
    return 2.0 * (shape.parameters - quantised) + NF4_BITS / 8 * quantised


def cost(work: Workload, where: Slice, method: str) -> Cost:
    """The fastest mesh, remat policy and number of microbatches that fit; else the leanest."""
    leanest: Cost | None = None
    times = 1
    while times <= min(work.rows, MOST_MICROBATCHES):
        micro = dataclasses.replace(work, accumulation=times)
        every = list(_choices(micro, where, method))
        if able := [one for one in every if one.fits]:
            return min(able, key=lambda one: one.step.total)
        for one in every:
            if leanest is None or one.memory.total < leanest.memory.total:
                leanest = one
        times *= 2
    if leanest is None:
        raise UserError(f"No mesh of {where.name} divides the model.")
    return leanest


def _choices(work: Workload, where: Slice, method: str) -> Iterator[Cost]:
    kernel = work.kernel(where.chip)
    for mesh in meshes(work, where):
        if mesh.context > 1 or mesh.stage > 1 or mesh.tensor > 8:
            continue  # of no use to models and rows of these sizes
        for name in REMATS:
            remat = POLICIES[name]
            used = _memory(memory(work, mesh, remat, kernel), work, mesh, method)
            step = step_time(work, where, mesh, remat, kernel)
            yield Cost(
                fits(used, hbm(where)), used, _time(step, work, where, mesh, method), mesh, name,
                work.accumulation,
                work.shape.parameters if method == "full" else adapters(work.shape),
            )


def _memory(used: Memory, work: Workload, mesh: Mesh, method: str) -> Memory:
    """What a device holds when only adapters train."""
    if method == "full":
        return used
    shape = work.shape
    share = used.parameters / (work.param_bytes * shape.parameters)  # of a device
    trained = share * adapters(shape)
    return dataclasses.replace(
        used, parameters=share * base_bytes(shape, method) + 4 * trained,
        gradients=4.0 * trained * (2 if work.accumulation > 1 else 1), optimizer=8.0 * trained,
    )


def _time(step: StepTime, work: Workload, where: Slice, mesh: Mesh, method: str) -> StepTime:
    """The same without the gradients of frozen matrices, with what is dequantised."""
    if method == "full":
        return step
    share = adapters(work.shape) / work.shape.parameters
    between = step.between
    if method == "qlora":
        kernels = sum(
            t.layers * per_device([w for w in t.layer if w.kernel], mesh, 1.0)
            for t in work.shape.towers
        )
        moved = DEQUANTISED * work.accumulation * kernels * (NF4_BITS / 8 + work.compute_bytes)
        bandwidth = where.chip.hbm_bandwidth / where.chip.devices * EFFICIENCY.memory
        between += moved / bandwidth
    return dataclasses.replace(
        step, products=FORWARD_AND_INPUTS * step.products + share * step.products,
        head=FORWARD_AND_INPUTS * step.head, optimizer=share * step.optimizer, between=between,
        data=share * step.data, network=share * step.network,
    )


def _adapter(weight: Weight, rank: int) -> int:
    return rank * (weight.inputs + weight.outputs)
