"""The roofline against published runs: MaxText's, with MaxText's own remat, kernels and batch.

The nine together set the four constants of `roofline.EFFICIENCY`. Counting FSDP's traffic as not
hidden explains what no choice of rates does: that runs with few tokens a chip (GPT-3, 405B) are the
slowest. So it is counted whole here; the plan of our own program hides it (nn/ahead.py) and says
what the run comes to if it is not.

Sources: the README of each recipe in github.com/AI-Hypercomputer/tpu-recipes, training/trillium/,
whose log line gives tokens per second and chip; for v5p, MaxText's docs/reference/models/tiering.md
(692 tokens/s) and MaxText/configs/v5p/llama2_70b.sh, whose policy save_dot_except_mlpwi keeps the
products with weights but the MLP's inner two (tiering.md says 512 chips, the recipe v5p-512, which
is 256: the prediction is the same). Measured MFU is recomputed from tokens per second
with causal attention counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.models.config import preset
from jaxllm.plan.flops import (
    HEAD_PRODUCTS,
    SPLASH,
    SPLASH_FUSED,
    Kernel,
    Lengths,
    model_flops,
)
from jaxllm.plan.remat import Remat
from jaxllm.plan.roofline import step_time
from jaxllm.plan.shapes import model_shape
from jaxllm.plan.slices import parse_slice
from jaxllm.plan.workload import Mesh, Workload


@dataclass(frozen=True)
class Run:
    """A published run: FSDP over all chips, float32 weights, bfloat16 compute, AdamW."""

    preset: str
    slice: str
    length: int
    rows: int  # per chip
    remat: Remat
    kernel: Kernel
    tokens_per_second: float  # per chip, measured

    @property
    def name(self) -> str:
        """Such as llama3.1_8b on v6e-256."""
        return f"{self.preset} on {self.slice}"


@dataclass(frozen=True)
class Row:
    """Predicted against measured MFU."""

    run: Run
    measured: float
    predicted: float

    @property
    def deviation(self) -> float:
        """Relative: 0.1 is predicted a tenth too fast."""
        return self.predicted / self.measured - 1


def _offload(*names: str) -> Remat:
    return Remat("MaxText offload", frozenset(), frozenset(names))


_FULL = Remat("full", frozenset())
_QKV = ("input", "query", "key", "value")
_UNFUSED = Kernel("splash, tiles of 1024", 1024, 7)
_DOTS = Remat("save_dot_except_mlpwi", frozenset({"query", "key", "value", "output", "down"}))
RUNS = (
    Run("llama3.1_8b", "v6e-256", 8192, 4, _offload(*_QKV, "output"), SPLASH_FUSED, 7207),
    Run("llama3.1_70b", "v6e-256", 8192, 5, _offload(*_QKV), SPLASH_FUSED, 960),
    Run("llama2_70b", "v5p-512", 4096, 4, _DOTS, SPLASH, 692),
    Run("llama3.1_8b", "v6e-16", 8192, 3, _offload(*_QKV, "output"), SPLASH_FUSED, 7243),
    Run("llama3.1_70b", "v6e-64", 8192, 2, _offload(*_QKV), SPLASH_FUSED, 877),
    Run("llama2_70b", "v6e-256", 4096, 4, _FULL, _UNFUSED, 943),
    Run("gpt3_175b", "v6e-256", 2048, 3, _FULL, _UNFUSED, 358),
    Run("gemma3_12b", "v6e-256", 32_768, 1, _FULL, _UNFUSED, 4478),
    Run("llama3.1_405b", "2xv6e-256", 8192, 1, _offload("input"), _UNFUSED, 149),
)


def calibration(runs: tuple[Run, ...] = RUNS) -> list[Row]:
    """Predicted and measured MFU of each run."""
    return [_row(run) for run in runs]


def _row(run: Run) -> Row:
    where = parse_slice(run.slice)
    shape, lengths = model_shape(preset(run.preset).completed()), Lengths(run.length)
    work = Workload(
        shape, lengths, rows=run.rows * where.chips, accumulation=1, steps=1, optimizer="adamw",
        moment_bytes=4, param_bytes=4, compute_bytes=2, attention="auto",
    )
    step = step_time(
        work, where, Mesh(fsdp=where.devices), run.remat, run.kernel, head_products=HEAD_PRODUCTS
    )
    flops = model_flops(shape, lengths) / run.length
    return Row(run, run.tokens_per_second * flops / where.chip.peak_flops, step.mfu_unhidden)
