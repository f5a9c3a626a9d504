"""Causal language modelling: predict each token from those before it in its own document."""

from __future__ import annotations

import numpy as np

from jaxllm.data.batch import Batch, Window
from jaxllm.data.objectives.base import Objective, number_documents


class Causal(Objective):
    """Inputs and the tokens that follow them."""

    ARCHITECTURES = ("decoder",)
    COVERS_TEXT = True

    overlap = 1  # the last token of a window is a target there and an input in the next

    def _set_up(self, load_tokenizer, decoder_start_id):
        self.raw_length = self.sequence_length + 1

    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        return shifted(window, self.sequence_length)


def shifted(window: Window, length: int) -> Batch:
    """Inputs and the tokens that follow them; segments and positions restart with each document.

    The first token of a document is no target: nothing of its own document comes before it.
    """
    tokens, starts = window
    n = len(tokens) - 1
    inputs, targets, weights, positions, segments = (
        np.zeros(length, kind) for kind in (np.int32, np.int32, np.float32, np.int32, np.int32)
    )
    inputs[:n], targets[:n] = tokens[:-1], tokens[1:]
    weights[:n] = ~starts[1:]
    begins = starts[:-1].copy()
    begins[:1] = True  # the window may begin inside a document
    segments[:n], positions[:n] = number_documents(begins)
    return Batch(inputs, targets, weights, positions, segments)


OBJECTIVE = Causal
