"""The time of a training step from what the chip can do: compute, memory, interconnect, network.

Every product takes the longer of its FLOPs over the matrix units' rate and its bytes over the
memory's. What lies between the products (norms, rotations, activations, sums) passes through
memory and is not hidden by them. Of the collectives FSDP's are hidden behind the layers (one layer
ahead, nn/ahead.py) and ring attention's behind attention; tensor's, data's and those of embedding
and head are not. No TPU has shown yet that ours are hidden, and MaxText's turned out not to be:
`StepTime.mfu_unhidden` is what the run then comes to.

`EFFICIENCY` is one set for all chips, calibrated on MaxText's published runs (calibration.py);
XLA's own estimates are not used. Rooflines: Williams et al. 2009; collectives on a torus: Austin et
al. 2025 ("How to Scale Your Model"), chapters 3 and 5; pipeline bubbles: Narayanan et al. 2021.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

from jaxllm.plan.adapters import BITS
from jaxllm.plan.flops import (
    HEAD_PRODUCTS,
    HEAD_PRODUCTS_FSDP,
    Kernel,
    again_in_attention,
    attention_calls,
    layer_products,
    model_flops,
)
from jaxllm.plan.links import crossing, link_rates
from jaxllm.plan.memory import local_tokens, offloaded_bytes, optimizer_bytes
from jaxllm.plan.remat import Remat
from jaxllm.plan.shapes import TowerShape
from jaxllm.plan.slices import Slice
from jaxllm.plan.workload import Mesh, Workload, per_device


@dataclass(frozen=True)
class Efficiency:
    """Shares of the data sheets' rates that programs reach."""

    matmul: float  # of the matrix units' peak, in large products
    attention: float  # of the same, in attention kernels: softmax shares the time
    memory: float  # of the memory's bandwidth, between products
    network: float  # of the links' bandwidth, in collectives


EFFICIENCY = Efficiency(matmul=0.80, attention=0.65, memory=0.60, network=0.67)
ASSUMPTIONS = (
    "products run at {matmul:.0%} of the chip's dense bfloat16 peak, attention kernels at "
    "{attention:.0%} of it, times head_dim over the side of the matrix unit where that is wider "
    "(256 on v6e and TPU7x); memory-bound work at {memory:.0%} of the memory's bandwidth, "
    "collectives at {network:.0%} of the links'",
    "FSDP gathers each layer's weights in the dtype of compute before its forward and again "
    "before its backward pass, and scatters gradients in it: hidden behind the layers' compute "
    "but for what exceeds it and the first gather",
    "the gradients' sum over mesh.data and mesh.context, tensor parallelism's gathers and "
    "scatters, and the vocabulary's gathers are not hidden; ring attention is behind attention",
    "a pipeline runs 4 microbatches per stage if the batch has them",
    "what lies on the host moves at the full rate of the host's link, activations behind the "
    "layers' compute (as MaxText's do in the calibration's runs on v6e), an optimizer's state not",
)

FORWARD_AND_INPUTS = 2 / 3  # of a product's three passes, where its matrix stays as it is
DEQUANTISED = 3  # times a step: forward, again for the backward pass, backward


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on every device, by what they are spent on."""

    products: float  # of the layers, forward and backward
    attention: float
    recompute: float  # of both, what the remat policy computes again
    head: float
    between: float  # passes through memory between the products
    optimizer: float
    fsdp: float  # what is not hidden
    tensor: float
    context: float
    data: float  # inside a slice
    network: float  # between slices or hosts
    host: float  # to and from the hosts' memory, what is not hidden
    bubble: float
    mfu: float
    mfu_unhidden: float  # if nothing of FSDP's traffic were hidden
    tokens: int
    devices: int

    @property
    def total(self) -> float:
        """The step."""
        return sum(self.parts().values())

    @property
    def tokens_per_second(self) -> float:
        """Of the whole slice."""
        return self.tokens / self.total

    def parts(self) -> dict[str, float]:
        """Seconds by name, in their order."""
        return {
            "products of the layers": self.products, "attention": self.attention,
            "recomputed by remat": self.recompute, "vocabulary head": self.head,
            "between the products (memory)": self.between, "optimizer (memory)": self.optimizer,
            "FSDP, not hidden": self.fsdp, "tensor, not hidden": self.tensor,
            "context, not hidden": self.context, "data, gradients": self.data,
            "between slices (DCN)": self.network, "host memory, not hidden": self.host,
            "pipeline bubble": self.bubble,
        }


def step_time(
    work: Workload, where: Slice, mesh: Mesh, remat: Remat, kernel: Kernel,
    rates: Efficiency = EFFICIENCY, head_products: int = 0,
) -> StepTime:
    """The predicted time of a step; `head_products` of the loss, 0: those of ours."""
    head_products = head_products or (HEAD_PRODUCTS_FSDP if mesh.fsdp > 1 else HEAD_PRODUCTS)
    model = _Roofline(work, where, mesh, remat, kernel, rates)
    compute = [model.tower(tower) for tower in work.shape.towers]
    products, attention, again, between = (sum(column) for column in zip(*compute, strict=True))
    repeats = work.accumulation
    head = repeats * model.head(head_products)
    forward = repeats * (products / 3 + attention / (2 + kernel.backward) * 2 + between / 3)
    whole = repeats * (products + attention + again + between)
    links = link_rates(where, mesh)
    bubble = (mesh.stage - 1) / microbatches(work, mesh) * whole
    flops = work.rows * model_flops(work.shape, work.lengths)
    data, network = model.gradients(links)
    hidden, traffic = model.fsdp(links, forward, whole - forward)
    parts = StepTime(
        products=repeats * products, attention=repeats * attention, recompute=repeats * again,
        head=head, between=repeats * between, optimizer=model.optimizer(),
        fsdp=hidden, tensor=model.tensor(links),
        context=model.context(links, repeats * attention), data=data, network=network,
        host=model.host(forward, whole - forward), bubble=bubble, mfu=0.0, mfu_unhidden=0.0,
        tokens=work.tokens, devices=where.devices,
    )
    ideal = flops / (where.chips * where.chip.peak_flops)
    slow = parts.total - hidden + traffic
    whole_step = dataclasses.replace(parts, mfu=ideal / parts.total, mfu_unhidden=ideal / slow)
    kernels = sum(
        t.layers * per_device([w for w in t.layer if w.kernel], mesh, 1.0)
        for t in work.shape.towers
    )
    return _tuned(whole_step, work, kernels, model.bandwidth * rates.memory)


def _tuned(step: StepTime, work: Workload, kernel_bytes: float, bandwidth: float) -> StepTime:
    """The same where only adapters train: without the gradients of frozen matrices, with what is
    dequantised.

    Args:
      kernel_bytes: bytes of a device's share of the layers' matrices, at one byte each.
      bandwidth: bytes per second of a device's memory.
    """
    if work.method == "full":
        return step
    share, between = work.trained / work.shape.parameters, step.between
    if BITS[work.method] < 16:
        moved = DEQUANTISED * work.accumulation * kernel_bytes
        between += moved * (BITS[work.method] / 8 + work.compute_bytes) / bandwidth
    passes = FORWARD_AND_INPUTS + share
    tuned = dataclasses.replace(
        step, products=passes * step.products, head=FORWARD_AND_INPUTS * step.head,
        optimizer=share * step.optimizer, between=between, data=share * step.data,
        network=share * step.network,
    )
    faster = passes * step.total / tuned.total  # FLOPs that are not needed are none of the MFU
    return dataclasses.replace(
        tuned, mfu=faster * step.mfu, mfu_unhidden=faster * step.mfu_unhidden
    )


def microbatches(work: Workload, mesh: Mesh) -> int:
    """Microbatches in a pipeline: the most that the rows of a group divide into, 4 a stage."""
    rows = max(work.rows // (work.accumulation * mesh.groups), 1)
    most = 4 * mesh.stage if mesh.stage > 1 else 1
    return max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)


@dataclass(frozen=True)
class _Roofline:
    work: Workload
    where: Slice
    mesh: Mesh
    remat: Remat
    kernel: Kernel
    rates: Efficiency

    @functools.cached_property
    def _peak(self) -> float:
        chip = self.where.chip
        return chip.peak_flops / chip.devices * chip.sustained

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes per second of a device's memory."""
        chip = self.where.chip
        return chip.hbm_bandwidth / chip.devices

    def tower(self, tower: TowerShape) -> tuple[float, float, float, float]:
        """Seconds of a microbatch: products, attention, recomputation, between."""
        work, mesh, tensor = self.work, self.mesh, self.mesh.tensor
        layers = tower.layers / mesh.stage
        share = work.rows / (work.accumulation * mesh.groups * mesh.context)
        products = again = 0.0
        for p in layer_products(tower, work.lengths):
            seconds = self._product(
                share * p.tokens, p.inputs, p.outputs / tensor if p.tensor else p.outputs
            )
            products += 3 * seconds
            if p.needed and not self.remat.keeps(p.name):
                again += seconds
        attention = 0.0
        for queries, keys, window, causal, count in attention_calls(tower, work.lengths):
            one = self._attention(tower, share * queries, keys, window, causal)
            one *= count / tower.layers
            attention += (2 + self.kernel.backward) * one
            again += again_in_attention(self.remat, self.kernel) * one
        return layers * products, layers * attention, layers * again, layers * self._between(tower)

    def _product(self, tokens: float, inputs: float, outputs: float) -> float:
        compute = 2 * tokens * inputs * outputs / (self._peak * self.rates.matmul)
        moved = tokens * (inputs + outputs) + inputs * outputs
        return max(compute, moved * self.work.compute_bytes / (self.bandwidth * self.rates.memory))

    def _attention(
        self, tower: TowerShape, queries: float, keys: int, window: int, causal: bool
    ) -> float:
        """One product of all heads; plain attention passes its scores through memory too."""
        a, mxu = tower.config.attention, self.where.chip.mxu
        pairs = queries * self.kernel.keys(keys, window, causal) * a.heads / self.mesh.tensor
        rate = self._peak * self.rates.attention * (min(1.0, a.head_dim / mxu) if mxu else 1.0)
        compute = 2 * pairs * a.head_dim / rate
        if self.kernel.block:
            return compute
        return max(compute, pairs * 6 / (self.bandwidth * self.rates.memory))

    def _between(self, tower: TowerShape) -> float:
        """Entries read and written between the products of a layer, see docs/plan.md."""
        config, a = tower.config, tower.config.attention
        width, heads = config.width, (a.heads + a.kv_heads) * a.head_dim
        inner = (1 + config.mlp.gated) * config.mlp.width
        forward = 8 * width + 2 * heads + inner
        backward = 10 * width + 2 * heads + 3 * inner
        again = 0 if self.remat.keeps("between") else forward
        entries = local_tokens(self.work, tower, self.mesh) * (forward + backward + again)
        moved = entries * self.work.compute_bytes / self.mesh.tensor
        return moved / (self.bandwidth * self.rates.memory)

    def head(self, products: int) -> float:
        """Scores of the vocabulary with their gradients, and the softmax over float32 logits."""
        work = self.work
        rows = work.rows / (work.accumulation * self.mesh.groups)
        tokens = rows * work.lengths.scored / self.mesh.context
        weight = work.shape.projection
        outputs = weight.outputs / self.mesh.tensor
        passes = 4 * 4 * tokens * outputs / (self.bandwidth * self.rates.memory)
        return products * self._product(tokens, weight.inputs, outputs) + passes

    def optimizer(self) -> float:
        """The update reads and writes the state once."""
        shape, size = self.work.shape, self.work.param_bytes
        each = 4 * size + 2 * self.work.moment_bytes + size
        moved = per_device([shape.embedding, *shape.head], self.mesh, each)
        for tower in shape.towers:
            moved += tower.layers / self.mesh.stage * per_device(tower.layer, self.mesh, each)
        return moved / (self.bandwidth * self.rates.memory)

    def fsdp(
        self, links: dict[str, float], forward: float, backward: float
    ) -> tuple[float, float]:
        """Gathering weights and scattering gradients: what is not hidden, and all of it."""
        mesh, work = self.mesh, self.work
        if mesh.fsdp == 1:
            return 0.0, 0.0
        rate = links["fsdp"] * self.rates.network * mesh.fsdp / (mesh.fsdp - 1)
        size = work.compute_bytes / mesh.tensor / rate
        layers = [sum(w.size for w in t.layer if w.kernel) * size for t in work.shape.towers]
        ticks = 1.0
        if mesh.stage > 1:  # a stage gathers its layers anew for each microbatch that it is given
            ticks = microbatches(work, mesh) + mesh.stage - 1
        gather = work.accumulation * ticks * sum(
            one * tower.layers / mesh.stage
            for one, tower in zip(layers, work.shape.towers, strict=True)
        )
        vocabulary = 2 if not work.model.tied else 1
        head = 3 * vocabulary * work.shape.embedding.size * size * work.accumulation
        exposed = max(0.0, gather - forward) + max(0.0, 2 * gather - backward)
        return exposed + head + work.accumulation * max(layers), 3 * gather + head

    def tensor(self, links: dict[str, float]) -> float:
        """Gathers before and scatters after each sublayer, forward, backward and again."""
        parts = self.mesh.tensor
        if parts == 1:
            return 0.0
        rate = links["tensor"] * self.rates.network * parts / (parts - 1)

        def moved(tower: TowerShape) -> float:
            sublayers = 3 if tower.cross else 2
            again = 0 if self.remat.keeps("between") else 2 * sublayers - 1
            tokens = local_tokens(self.work, tower, self.mesh)
            return (4 * sublayers + again) * tokens * tower.config.width

        return self._activations(moved) / rate

    def context(self, links: dict[str, float], attention: float) -> float:
        """Keys and values round the ring, with their gradients on the way back."""
        parts = self.mesh.context
        if parts == 1:
            return 0.0
        rate = links["context"] * self.rates.network * parts / (parts - 1)

        def moved(tower: TowerShape) -> float:
            a = tower.config.attention
            tokens = local_tokens(self.work, tower, self.mesh) * parts
            return 4 * tokens * 2 * a.kv_heads * a.head_dim / self.mesh.tensor

        return max(0.0, self._activations(moved) / rate - attention)

    def host(self, forward: float, backward: float) -> float:
        """What the layers keep on the host goes there behind the forward pass and comes back behind
        the backward pass; the optimizer's state comes and goes while nothing else is done.
        """
        work, chip = self.work, self.where.chip
        rate = chip.host_link / chip.devices
        moved = work.accumulation * offloaded_bytes(work, self.mesh, self.remat, self.kernel) / rate
        exposed = max(0.0, moved - forward) + max(0.0, moved - backward)
        if work.optimizer_on_host:
            exposed += 2 * optimizer_bytes(work, self.mesh) / rate
        return exposed

    def _activations(self, moved: Callable[[TowerShape], float]) -> float:
        """Bytes of a step, where a layer of a tower moves so many numbers a microbatch."""
        layers = sum(moved(t) * t.layers / self.mesh.stage for t in self.work.shape.towers)
        return self.work.accumulation * self.work.compute_bytes * layers

    def gradients(self, links: dict[str, float]) -> tuple[float, float]:
        """Sums over mesh.data, expert and context: inside slices, and between them."""
        mesh, count, chip = self.mesh, self.where.count, self.where.chip
        replicas = mesh.data * mesh.expert * mesh.context
        held = sum(
            tower.layers / mesh.stage * per_device(tower.layer, mesh, self.work.param_bytes)
            for tower in self.work.shape.towers
        )
        shape = self.work.shape
        held += per_device([shape.embedding, *shape.head], mesh, self.work.param_bytes)
        inside, between = replicas, 0.0
        if crossing(self.where, mesh) == "data":
            inside = replicas // count
            network = chip.dcn / chip.devices * self.rates.network
            between = 2 * held * (count - 1) / count / network
        if inside == 1:
            return 0.0, between
        rate = min(links["data"], links["context"]) * self.rates.network
        return 2 * held * (inside - 1) / inside / rate, between
