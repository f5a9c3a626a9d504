"""The one shape of training data: every objective emits it and every loss reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Consecutive tokens of a token stream: what an example is made from."""

    tokens: np.ndarray  # [n] int32
    starts: np.ndarray  # [n] bool: a document begins here


class Batch(NamedTuple):
    """Arrays [B, T], or [T] for a single example. A NamedTuple is a pytree without importing jax.

    Segments number the documents packed into a row 1, 2, …; 0 is padding. Attention stays inside
    a segment and positions count from its beginning. Of an encoder-decoder, `inputs` and `targets`
    are the decoder's [B, T], and segments are 1 for tokens and 0 for padding on both sides.
    """

    inputs: np.ndarray  # int32 token ids
    targets: np.ndarray  # int32, what the model shall predict at each place
    weights: np.ndarray  # float32, of each target in the loss; 0: not trained on
    positions: np.ndarray  # int32
    segment_ids: np.ndarray | None  # int32; None: a row is one document
    prefix: np.ndarray | None = None  # int32; not 0: a token that is seen from before it too
    encoder_inputs: np.ndarray | None = None  # [B, S] int32, of encoder-decoder models
    encoder_positions: np.ndarray | None = None
    encoder_segment_ids: np.ndarray | None = None
    # Of each target the likeliest tokens in a teacher's eyes, [B, T, k] (train/distill/cache.py).
    teacher_ids: np.ndarray | None = None  # int32
    teacher_logprobs: np.ndarray | None = None  # float32


def stack(rows: Sequence[Batch]) -> Batch:
    """The batch whose rows are the given examples."""
    columns = zip(*rows, strict=True)
    return Batch(*(None if column[0] is None else np.stack(column) for column in columns))
