"""The parameters of a step that trains adapters, and the bytes of the base below them.

Full tuning keeps parameters, gradients and AdamW's moments. Of LoRA only the adapters have those:
the base lies in bfloat16, of QLoRA the layers' matrices in nf4 with double quantisation.
"""

from __future__ import annotations

from jaxllm.models.adapters.config import ALL_LINEAR, AdapterConfig
from jaxllm.plan.shapes import ModelShape, Weight

RANK = 16  # of the adapters of a plan without a recipe, on every matrix of the layers
# Dettmers et al. 2023: 4 bits, an 8-bit scale for 64 of them, a float32 scale for 256 of those
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
INT8_BITS = 8 + 0.25
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
