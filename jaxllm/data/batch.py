"""The one shape of training data: every objective emits it and every loss reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Arrays [B, T], or [T] for a single example. A NamedTuple is a pytree without importing jax.

    Segments number the documents packed into a row 1, 2, …; 0 is padding. Attention stays inside
    a segment and positions count from its beginning.
    """

    inputs: np.ndarray  # int32 token ids
    targets: np.ndarray  # int32, what the model shall predict at each place
    weights: np.ndarray  # float32, of each target in the loss; 0: not trained on
    positions: np.ndarray  # int32
    segment_ids: np.ndarray | None  # int32; None: a row is one document
    encoder_inputs: np.ndarray | None = None  # [B, S] int32, of encoder-decoder models
    encoder_positions: np.ndarray | None = None
    encoder_segment_ids: np.ndarray | None = None


def join_documents(batch: Batch) -> Batch:
    """The batch with every row one document: attention and positions run through it."""
    positions = np.empty_like(batch.positions)
    positions[...] = np.arange(positions.shape[-1], dtype=np.int32)
    return batch._replace(positions=positions, segment_ids=None)


def stack(rows: Sequence[Batch]) -> Batch:
    """The batch whose rows are the given examples."""
    columns = zip(*rows, strict=True)
    return Batch(*(None if column[0] is None else np.stack(column) for column in columns))
