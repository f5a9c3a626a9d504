"""Memory of one device during a training step, by part, reckoned without compiling.

What is assumed of the program: the loss is blocked over tokens and vocabulary
(train/loss_blocks.py), weights are gathered one layer ahead in the dtype of compute (nn/ahead.py),
an MLP's backward pass goes through its tokens in chunks (nn/mlp.py), the layers' inputs are cut
along mesh.tensor as well as their inner values, and buffers of the loss and of a layer's backward
pass take turns. `jaxllm check` compiles the step and says what it really allocates.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from jaxllm.core.errors import UserError
from jaxllm.plan.adapters import base_bytes
from jaxllm.plan.flops import Kernel, Lengths, layer_products
from jaxllm.plan.remat import Remat
from jaxllm.plan.shapes import TowerShape, Weight
from jaxllm.plan.workload import Mesh, Workload, per_device
from jaxllm.train.config import HEADROOM

LOSS_BLOCK = 2**29  # bytes of float32 logits at a time, their gradient in half of that besides
MLP_CHUNK = 2**28  # bytes of an MLP's hidden units at a time, in the dtype of compute
PROGRAM = 0.3e9  # generated code, the batch, and what the runtime keeps
LEAST_FACTORED = 128  # optax.adafactor's min_dim_size_to_factor
GATHERED = 3  # layers' worth in the dtype of compute: this one, the next, and its gradient


@dataclass(frozen=True)
class Memory:
    """Bytes of a device."""

    parameters: float
    optimizer: float
    gradients: float
    saved: float  # of the layers, for the backward pass
    working: float  # one layer's backward pass, the loss, or an update of what lies on the host
    gathered: float  # weights of the layers that are in use
    program: float
    offloaded: float = 0.0  # to the host, not part of the total

    @property
    def total(self) -> float:
        """All that lies on the device."""
        return (
            self.parameters + self.optimizer + self.gradients + self.saved + self.working
            + self.gathered + self.program
        )

    def parts(self) -> dict[str, float]:
        """The parts by name, in their order."""
        return {
            "parameters": self.parameters, "optimizer state": self.optimizer,
            "gradients": self.gradients, "saved activations": self.saved,
            "one layer's backward pass, the loss, or the update": self.working,
            "gathered weights": self.gathered, "program and batch": self.program,
        }


def memory(work: Workload, mesh: Mesh, remat: Remat, kernel: Kernel) -> Memory:
    """The memory of one device."""
    whole = _held(work, mesh, 1.0)
    parameters = whole * work.param_bytes
    accumulating = 2 if work.accumulation > 1 else 1  # the sum, and the microbatch's own
    saved = sum(
        _saved(work, tower, mesh, remat.saved, kernel) for tower in work.shape.towers
    )
    if "input" not in remat.offloaded:
        saved += sum(_inputs(work, tower, mesh) for tower in work.shape.towers)
    working = max(_loss(work, mesh), *(
        _backward(work, tower, mesh, remat, kernel) for tower in work.shape.towers
    ))
    gathered = max(_gathered(work, tower, mesh) for tower in work.shape.towers)
    optimizer, offloaded = optimizer_bytes(work, mesh), offloaded_bytes(work, mesh, remat, kernel)
    if work.optimizer_on_host:  # it comes whole, where activations and gathered weights lay
        working = max(working, optimizer - saved - gathered)
        optimizer, offloaded = 0.0, offloaded + optimizer
    return _tuned(Memory(
        parameters=parameters, optimizer=optimizer,
        gradients=whole * work.param_bytes * accumulating, saved=saved, working=working,
        gathered=gathered, program=PROGRAM, offloaded=offloaded,
    ), work)


def _tuned(used: Memory, work: Workload) -> Memory:
    """What a device holds when only adapters train."""
    if work.method == "full":
        return used
    share = used.parameters / (work.param_bytes * work.shape.parameters)  # of a device
    trained = share * work.trained
    accumulating = 2 if work.accumulation > 1 else 1
    return dataclasses.replace(
        used, parameters=share * base_bytes(work.shape, work.method) + 4 * trained,
        gradients=4.0 * trained * accumulating, optimizer=8.0 * trained,
    )


def offloaded_bytes(work: Workload, mesh: Mesh, remat: Remat, kernel: Kernel) -> float:
    """What the layers of a device keep on the host in a microbatch."""
    total = sum(_saved(work, tower, mesh, remat.offloaded, kernel) for tower in work.shape.towers)
    if "input" in remat.offloaded:
        total += sum(_inputs(work, tower, mesh) for tower in work.shape.towers)
    return total


def optimizer_bytes(work: Workload, mesh: Mesh) -> float:
    """The optimizer's state of a device, wherever it lies."""
    return _optimizer(work, mesh, _held(work, mesh, 1.0))


def fits(used: Memory, capacity: float) -> bool:
    """Whether the memory of a device suffices, with HEADROOM left free."""
    return used.total <= capacity * (1 - HEADROOM)


def local_tokens(work: Workload, tower: TowerShape, mesh: Mesh) -> float:
    """Tokens of a microbatch that a device computes in this tower."""
    return _length(work.lengths, tower) * work.rows / (
        work.accumulation * mesh.groups * mesh.context
    )


def _length(lengths: Lengths, tower: TowerShape) -> int:
    return lengths.encoder if lengths.encoder and not tower.causal else lengths.own


def _held(work: Workload, mesh: Mesh, bytes_each: float) -> float:
    """Bytes of all parameters on a device."""
    shape = work.shape
    total = per_device([shape.embedding, *shape.head], mesh, bytes_each)
    for tower in shape.towers:
        total += per_device(tower.besides, mesh, bytes_each)
        total += tower.layers / mesh.stage * per_device(tower.layer, mesh, bytes_each)
    return total


def _optimizer(work: Workload, mesh: Mesh, held: float) -> float:
    """Bytes of the optimizer's state; `held` parameters lie on the device."""
    name, second = work.optimizer, work.param_bytes
    if name == "adamw":
        return held * (work.moment_bytes + second)
    if name in ("lion", "sgd"):
        return held * work.moment_bytes
    kernels = sum(
        tower.layers / mesh.stage * per_device([w for w in tower.layer if w.kernel], mesh, 1.0)
        for tower in work.shape.towers
    )
    if name == "muon":  # one moment of the layers' matrices, two of the rest
        return held * work.moment_bytes + (held - kernels) * second
    if name == "adafactor":
        shape = work.shape
        total = sum(_factored(w, (), mesh) for w in (shape.embedding, *shape.head))
        for tower in shape.towers:
            total += sum(_factored(w, (), mesh) for w in tower.besides)
            total += sum(_factored(w, (tower.layers,), mesh) for w in tower.layer)
        return second * total
    raise UserError(f"optimizer.name={name!r} is unknown to the plan.")


def _factored(weight: Weight, stacked: tuple[int, ...], mesh: Mesh) -> float:
    """Entries that optax's adafactor keeps: sums along the two largest dimensions if both have 128
    (whole on every device), else as many as there are parameters.
    """
    dims = (*stacked, *(weight.dims or (weight.size,)))
    entries = math.prod(dims)
    largest = sorted(dims)[-2:]
    if len(dims) > 1 and largest[0] >= LEAST_FACTORED:
        return entries / largest[0] + entries / largest[1]
    layers = mesh.stage if stacked else 1
    return math.prod(stacked) / layers * per_device([weight], mesh, 1.0)


def _inputs(work: Workload, tower: TowerShape, mesh: Mesh) -> float:
    """The input of every layer, which every remat policy keeps, here or on the host."""
    tokens = local_tokens(work, tower, mesh) * tower.layers / mesh.stage
    return tokens * tower.config.width * work.compute_bytes / mesh.tensor


def _saved(
    work: Workload, tower: TowerShape, mesh: Mesh, names: frozenset[str], kernel: Kernel
) -> float:
    """What a policy keeps besides the layers' inputs."""
    config = tower.config
    inner = config.attention.heads * config.attention.head_dim
    entries = sum(
        p.outputs * p.tokens / _length(work.lengths, tower)
        for p in layer_products(tower, work.lengths) if p.name in names and p.needed
    )
    per_token = entries * work.compute_bytes
    if "attention" in names:  # its output, and log Z of every head in float32
        calls = 2 if tower.cross else 1
        per_token += calls * (inner * work.compute_bytes + 4 * config.attention.heads)
    if "between" in names:  # two norms, the stream between the sublayers, the hidden units
        per_token += (3 * config.width + config.mlp.width) * work.compute_bytes
        if not kernel.block:
            per_token += config.attention.heads * work.lengths.own * work.compute_bytes
    tokens = local_tokens(work, tower, mesh) * tower.layers / mesh.stage
    return tokens * per_token / mesh.tensor


def _backward(
    work: Workload, tower: TowerShape, mesh: Mesh, remat: Remat, kernel: Kernel
) -> float:
    """The inner values of one layer, that its backward pass computes again and reads."""
    config, a = tower.config, tower.config.attention
    tokens, size = local_tokens(work, tower, mesh), work.compute_bytes
    inner = 2 * (a.heads + a.kv_heads) * a.head_dim + 4 * config.width
    total = tokens * inner * size / mesh.tensor
    total += _mlp_backward(work, tower, mesh, remat)
    if not kernel.block:  # scores and probabilities, float32 and in the dtype of compute
        pairs = tokens * _length(work.lengths, tower) * a.heads / mesh.tensor
        total += pairs * (4 + size)
    return total


def _mlp_backward(work: Workload, tower: TowerShape, mesh: Mesh, remat: Remat) -> float:
    """Hidden units of all tokens; or of a chunk, their gradients, and those of the kernels."""
    mlp, units = tower.config.mlp, tower.config.mlp.width / mesh.tensor
    hidden = local_tokens(work, tower, mesh) * units * work.compute_bytes
    plain = mlp.bias or mlp.dropout or remat.keeps("mlp_up") or remat.keeps("between")
    if plain or hidden <= MLP_CHUNK:
        return (2 + mlp.gated) * hidden
    kernels = (2 + mlp.gated) * tower.config.width * units
    return (3 + 2 * mlp.gated) * MLP_CHUNK + 4 * kernels


def _loss(work: Workload, mesh: Mesh) -> float:
    """A block of logits with its gradient, and the hidden states with theirs."""
    rows = work.rows / (work.accumulation * mesh.groups)
    tokens = rows * work.lengths.scored / mesh.context
    logits = min(LOSS_BLOCK, tokens * work.model.vocab_size / mesh.tensor * 4)
    return 1.5 * logits + 2 * tokens * work.model.width * work.compute_bytes


def _gathered(work: Workload, tower: TowerShape, mesh: Mesh) -> float:
    kernels = sum(w.size for w in tower.layer if w.kernel) / mesh.tensor
    copies = GATHERED if mesh.fsdp > 1 else 1  # not cut: a copy in the dtype of compute
    return copies * kernels * work.compute_bytes
