"""Causal language modelling: predict each token from those before it in its own document."""

from __future__ import annotations

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.windows import Window

OVERLAP = 1  # the last token of a window is a target there and an input in the next


def raw_length(sequence_length: int) -> int:
    """The inputs and the token after the last."""
    return sequence_length + 1


def example(window: Window, sequence_length: int, rng: np.random.Generator) -> Batch:
    """Inputs and the tokens that follow them; segments and positions restart with each document.

    The first token of a document is no target: nothing of its own document comes before it.
    """
    tokens, starts = window
    n = len(tokens) - 1
    inputs, targets, weights, positions, segments = (
        np.zeros(sequence_length, kind)
        for kind in (np.int32, np.int32, np.float32, np.int32, np.int32)
    )
    inputs[:n], targets[:n] = tokens[:-1], tokens[1:]
    weights[:n] = ~starts[1:]
    begins = starts[:-1].copy()
    begins[:1] = True  # the window may begin inside a document
    np.cumsum(begins, out=segments[:n])
    places = np.arange(n, dtype=np.int32)
    positions[:n] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return Batch(inputs, targets, weights, positions, segments)
