"""A step that trains adapters: what its memory and time have less, and more, than a full one's.

Full tuning keeps parameters, gradients and AdamW's moments. Of LoRA only the adapters have those:
the base lies in bfloat16, of QLoRA the layers' matrices in nf4 with double quantisation. A frozen
matrix has no gradient, a third of its products.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxllm.models.adapters.config import ALL_LINEAR, AdapterConfig
from jaxllm.plan.shapes import ModelShape, Weight

if TYPE_CHECKING:
    from jaxllm.plan.memory import Memory
    from jaxllm.plan.roofline import StepTime
    from jaxllm.plan.workload import Workload

RANK = 16  # of the adapters of a plan without a recipe, on every matrix of the layers
# Dettmers et al. 2023: 4 bits, an 8-bit scale for 64 of them, a float32 scale for 256 of those
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
INT8_BITS = 8 + 0.25
FORWARD_AND_INPUTS = 2 / 3  # of a product's three passes, where its matrix stays as it is
DEQUANTISED = 3  # times a step: forward, again for the backward pass, backward
METHODS = {"none": "lora", "nf4": "qlora", "int8": "lora int8"}  # by the base's quantisation
BITS = {"full": 32.0, "lora": 16.0, "qlora": NF4_BITS, "lora int8": INT8_BITS}
USUAL = ("query", "value")  # PEFT's targets where none are named


def method_of(adapter: AdapterConfig) -> str:
    """The method of a model's adapters, as BITS names it."""
    return METHODS[adapter.quantization] if adapter.method == "lora" else "full"


def adapters(
    shape: ModelShape, rank: int = RANK, targets: tuple[str, ...] = (ALL_LINEAR,)
) -> float:
    """Parameters of adapters of this rank on the layers' matrices: all, queries and values for (),
    else those whose names end as a target does (all, where no name does).
    """
    def count(names: tuple[str, ...]) -> float:
        return sum(
            tower.layers * sum(
                rank * (w.inputs + w.outputs) for w in tower.layer
                if w.kernel and (not names or _named(w, names))
            )
            for tower in shape.towers
        )

    if ALL_LINEAR in targets:
        return count(())
    return count(targets or USUAL) or count(())


def _named(weight: Weight, names: tuple[str, ...]) -> bool:
    return any(weight.name.removesuffix(".kernel").endswith(name) for name in names)


def base_bytes(shape: ModelShape, method: str) -> float:
    """Bytes of the parameters of a model that is tuned by this method, adapters left out."""
    kernels = sum(t.layers * sum(w.size for w in t.layer if w.kernel) for t in shape.towers)
    if method == "full":
        return 4.0 * shape.parameters
    return 2.0 * (shape.parameters - kernels) + BITS[method] / 8 * kernels


def tuned_memory(used: Memory, work: Workload) -> Memory:
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


def tuned_time(step: StepTime, work: Workload, kernel_bytes: float, bandwidth: float) -> StepTime:
    """The same without the gradients of frozen matrices, with what is dequantised.

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
