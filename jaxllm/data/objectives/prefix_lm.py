"""Prefix language modelling: the beginning of a document is seen in both directions, and free.

Raffel et al. 2020 (arXiv:1910.10683), section 3.2.1: a split point is drawn uniformly, and the loss
is that of the tokens after it.
"""

from __future__ import annotations

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.objectives.base import Objective, check_option
from jaxllm.data.objectives.causal import shifted


class PrefixLM(Objective):
    """A causal row with a prefix in each document; in the row where documents are joined."""

    ARCHITECTURES = ("decoder",)
    OPTIONS = "prefix"

    overlap = 1  # as in the causal objective

    def _set_up(self, load_tokenizer, decoder_start_id):
        least, most = self.config.prefix.min_share, self.config.prefix.max_share
        check_option("prefix.min_share", least, 0, 1)
        check_option("prefix.max_share", most, 0, 1)
        if least > most:
            raise UserError(
                f"data.prefix.min_share={least} must not be above data.prefix.max_share={most}."
            )
        self.raw_length = self.sequence_length + 1

    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        """The causal example; prefixes are 1 in `prefix`, and their tokens are no targets."""
        row, n = shifted(window, self.sequence_length), len(window.tokens) - 1
        begins = row.positions[:n] == 0
        if not self.config.block_cross_document_attention:
            begins[1:] = False
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=n)
        low, high = self.config.prefix.min_share, self.config.prefix.max_share
        shares = low + (high - low) * rng.random(len(starts))
        # at least one token of a document is predicted
        split = np.minimum((shares * lengths).astype(np.int32), lengths - 1)
        place = np.arange(n) - np.repeat(starts, lengths)
        split = np.repeat(split, lengths)
        prefix = np.zeros_like(row.inputs)
        prefix[:n] = place < split
        row.weights[:n][place + 1 < split] = 0
        return row._replace(prefix=prefix)


OBJECTIVE = PrefixLM
