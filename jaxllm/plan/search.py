"""Which mesh and remat policy are fastest on a slice, and the smallest slice that is enough."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxllm.core.axes import divisors
from jaxllm.plan.memory import Memory, fits, memory
from jaxllm.plan.remat import POLICIES, Remat, find_remat
from jaxllm.plan.roofline import StepTime, step_time
from jaxllm.plan.slices import Slice, slices
from jaxllm.plan.workload import Mesh, Workload, fault
from jaxllm.train.config import HOST_SHARE

# Offloading of ours is not measured yet: it has to be reckoned faster by this much.
OFFLOAD_MARGIN = 0.03
# Beyond these an axis costs more than it brings on any chip here.
MOST = {"tensor": 32, "context": 32, "stage": 16}


@dataclass(frozen=True)
class Candidate:
    """A way to run a workload on a slice, with what it takes."""

    where: Slice
    mesh: Mesh
    remat: Remat
    memory: Memory
    step: StepTime
    accumulation: int  # microbatches of a step

    @property
    def rank(self) -> float:
        """Seconds that it is compared by."""
        return self.step.total * (1 + OFFLOAD_MARGIN * bool(self.remat.offloaded))

    def words(self) -> str:
        """Such as "fsdp 16 x tensor 4, 2 microbatches"."""
        micro = f", {self.accumulation} microbatches" if self.accumulation > 1 else ""
        return f"{self.mesh.words()}{micro}"


def hbm(where: Slice) -> float:
    """Bytes of memory of a device of the slice."""
    return where.chip.hbm_bytes / where.chip.devices


def host_room(where: Slice) -> float:
    """Bytes of its host's memory that a device's arrays may take."""
    chip = where.chip
    return HOST_SHARE * chip.host_ram / (chip.host_chips * chip.devices)


def fits_slice(used: Memory, where: Slice) -> bool:
    """Whether the memory of the slice's devices and of their hosts suffices."""
    return fits(used, hbm(where)) and used.offloaded <= host_room(where)


def evaluate(work: Workload, where: Slice, mesh: Mesh, remat: Remat) -> Candidate:
    """The memory and time of one choice, which `workload.check_mesh` allows."""
    kernel = work.kernel(where.chip, mesh.context)
    return Candidate(
        where, mesh, remat, memory(work, mesh, remat, kernel),
        step_time(work, where, mesh, remat, kernel), work.accumulation,
    )


def settled(name: str, work: Workload, where: Slice, mesh: Mesh) -> Remat:
    """The remat policy of this name; of "auto" the fastest that is reckoned to fit, or full.

    Raises:
      UserError: there is no such policy.
    """
    if name != "auto":
        return find_remat(name)
    every = [evaluate(work, where, mesh, remat) for remat in POLICIES.values()]
    fitting = [one for one in every if fits_slice(one.memory, where)]
    return min(fitting, key=lambda one: one.rank).remat if fitting else POLICIES["full"]


def meshes(work: Workload, where: Slice) -> Iterator[Mesh]:
    """The meshes that divide the model, the batch and the slice.

    Of several slices each holds whole replicas (mesh.data) or whole stages: only they talk over the
    network between slices.
    """
    model = work.model
    layers = math.gcd(*(tower.layers for tower in work.shape.towers))
    heads = math.gcd(model.attention.heads, model.attention.kv_heads, model.mlp.width)
    length = math.gcd(work.lengths.own, work.lengths.encoder or work.lengths.own)
    for stage in _sizes(math.gcd(layers, where.devices), MOST["stage"]):
        for tensor in _sizes(math.gcd(heads, where.devices // stage), MOST["tensor"]):
            rest = where.devices // stage // tensor
            for context in _sizes(math.gcd(length, rest), MOST["context"]):
                for data in _sizes(rest // context, rest):
                    mesh = Mesh(data, rest // context // data, 1, context, tensor, stage)
                    split = data % where.count == 0 or stage % where.count == 0
                    if split and not fault(work, mesh):
                        yield mesh


def search(
    work: Workload, where: Slice, *, remats: Iterable[Remat] = tuple(POLICIES.values()),
    among: Iterable[Mesh] | None = None,
) -> list[Candidate]:
    """Everything that fits the slice, the fastest first; of equal ones (3 digits) the plainer mesh.

    If nothing fits, the batch is cut into more microbatches than the recipe has, the fewest that
    let something fit.
    """
    remats, times = list(remats), 1
    while times <= work.rows // work.accumulation:
        micro = dataclasses.replace(work, accumulation=work.accumulation * times)
        able = [m for m in meshes(micro, where) if among is None or m in among]
        if found := _fitting(micro, where, remats, able):
            return found
        times *= 2
    return []


def smallest(work: Workload, where: Slice) -> Candidate | None:
    """The fastest choice on the smallest slice of this chip that the workload fits; None: none.

    The batch stays, so that there are more rows a device than on a large slice; where they do not
    fit at once they are accumulated.
    """
    work = dataclasses.replace(work, accumulation=1)
    sparing = [POLICIES["full"], POLICIES["attention"]]  # what a small slice has room for
    for one in slices(where.chip):
        if found := search(work, one, remats=sparing):
            return found[0]
    return None


def _fitting(
    work: Workload, where: Slice, remats: list[Remat], among: list[Mesh]
) -> list[Candidate]:
    found = []
    for mesh in among:
        kernel = work.kernel(where.chip, mesh.context)
        done = set()
        for remat in remats:
            if remat.kept in done:  # what computes the same and moves less to the host fits
                continue
            used = memory(work, mesh, remat, kernel)
            if fits_slice(used, where):
                step = step_time(work, where, mesh, remat, kernel)
                found.append(Candidate(where, mesh, remat, used, step, work.accumulation))
                done.add(remat.kept)
    return sorted(found, key=lambda c: (float(f"{c.rank:.3g}"), _plainness(c.mesh)))


def _sizes(number: int, most: int) -> list[int]:
    return [n for n in divisors(number) if n <= most]


def _plainness(mesh: Mesh) -> tuple[int, ...]:
    return mesh.stage, mesh.context, mesh.tensor, mesh.data
