"""Our side of a comparison: a compiled training step and its state, without data or a loop."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.models.config import ModelConfig
from jaxllm.nn.compute import Compute, make_compute
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import Setup, TrainState, init_state, make_setup
from jaxllm.train.step import jit_train_step

OPTIMIZER = OptimizerConfig()


class Training:
    """The step that `jaxllm train` runs, compiled for random tokens [B, T]."""

    def __init__(
        self, model: ModelConfig, batch: Batch, *, compute: Compute | None = None,
        optimizer: OptimizerConfig = OPTIMIZER, loss_chunk: int = 0,
    ):
        compute = compute or make_compute()
        self.setup: Setup = make_setup(model.completed(), compute, optimizer, 1000)
        self.batch = jax.device_put(batch)
        self.state: TrainState = init_state(self.setup, 0)
        step = jit_train_step(self.setup, LossOptions(chunk=loss_chunk), 1, 0)
        self.compiled: Any = step.lower(self.state, self.batch).compile()

    def step(self) -> dict[str, jax.Array]:
        """One update; the metrics are still being computed when it returns."""
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics

    def step_synchronised(self) -> float:
        """One update to its end; gives the loss."""
        metrics = self.step()
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


def random_ids(vocab_size: int, B: int, T: int, seed: int = 0) -> np.ndarray:
    """Token ids [B, T + 1], the same for both sides."""
    return np.random.default_rng(seed).integers(0, vocab_size, (B, T + 1)).astype(np.int32)


def batch_of(ids: np.ndarray, *, documents: int = 1) -> Batch:
    """Next-token batch of `ids`; each row holds `documents` equal segments, None for 0."""
    B, T = ids.shape[0], ids.shape[1] - 1
    index = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    length = -(-T // max(documents, 1))
    segments = (index // length + 1).astype(np.int32) if documents else None
    weights = np.ones((B, T), np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights, (index % length).astype(np.int32), segments)
