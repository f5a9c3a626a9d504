"""The mean loss over a validation split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxllm.core.mesh import Sharding
from jaxllm.data.batch import Batch
from jaxllm.nn.module import Params
from jaxllm.train.feed import local_rows, place


def validation_record(
    eval_step: Callable, params: Params, batches: Iterable[Batch], sharding: Sharding,
    *, step: int, split: str, batch_size: int, bytes_per_token: float | None,
) -> dict[str, Any]:
    """The metrics record of one pass over `batches` (global host batches of `batch_size` rows).

    `loss` is the mean negative log-likelihood per token in nats.
    """
    rows = local_rows(sharding, batch_size)
    totals = []
    for batch in batches:
        local = jax.tree.map(lambda x: x[rows], batch)
        totals.append(eval_step(params, place(local, sharding, rows, batch_size)))
    # float64 on the host: a long split must not lose digits
    sums = np.sum(np.array([[t.nll, t.weight] for t in jax.device_get(totals)], np.float64), axis=0)
    loss = float(sums[0] / sums[1])
    return {
        "step": step, "split": split, "loss": loss, "perplexity": perplexity(loss),
        "bits_per_byte": loss / math.log(2) / bytes_per_token if bytes_per_token else None,
        "tokens": int(sums[1]),
    }


def perplexity(loss: float) -> float | None:
    """exp(loss), or None where that is no finite number."""
    return math.exp(loss) if loss < 700 else None
