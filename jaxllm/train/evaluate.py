"""The mean loss over a validation split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxllm.core.mesh import Sharding
from jaxllm.data.batch import Batch
from jaxllm.nn.module import Params
from jaxllm.train.feed import local_rows, place
from jaxllm.train.losses import LossSums


def validation_record(
    eval_step: Callable, params: Params, batches: Iterable[Batch], sharding: Sharding,
    *, step: int, split: str, batch_size: int, bytes_per_token: float | None,
) -> dict[str, Any]:
    """The metrics record of one pass over `batches` (this host's rows of `batch_size`).

    `loss` is the mean negative log-likelihood per target in nats, None when it is not finite;
    `accuracy` is the share of targets that the likeliest token hits.
    """
    rows = local_rows(sharding, batch_size)
    totals, pending = [], []
    for batch in batches:
        pending.append(eval_step(params, place(batch, sharding, rows, batch_size)))
        if len(pending) > 2:  # the device stays busy and holds no more than a few batches
            totals.append(_read(pending.pop(0)))
    totals += [_read(sums) for sums in pending]
    # float64 on the host: a long split must not lose digits
    sums = np.sum(np.array(totals, np.float64), axis=0)
    nll, correct, weight = sums.tolist()
    usable = np.isfinite(sums).all() and weight > 0
    loss = nll / weight if usable else None
    bits = None if loss is None or not bytes_per_token else loss / math.log(2) / bytes_per_token
    return {
        "step": step, "split": split, "loss": loss, "perplexity": perplexity(loss),
        "bits_per_byte": bits, "accuracy": correct / weight if usable else None,
        "tokens": int(weight),
    }


def _read(sums: LossSums) -> tuple[float, float, float]:
    return float(sums.nll), float(sums.correct), float(sums.weight)


def perplexity(loss: float | None) -> float | None:
    """exp(loss), or None where that is no finite number."""
    return math.exp(loss) if loss is not None and loss < 700 else None
