"""Masked language modelling: predict chosen tokens from all the others.

Devlin et al. 2019 (BERT, arXiv:1810.04805) and Liu et al. 2019 (RoBERTa, arXiv:1907.11692), whose
rows these are: full text, and a fresh mask each time that it is seen. As in RoBERTa's code, the
number of chosen places is rate times the tokens that are not special, rounded up or down at random
so that its mean is exact; random tokens are never special. As in BERT's, each chosen token is
masked, replaced or kept for itself, those of a whole word too.
"""

from __future__ import annotations

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.objectives.base import (
    Objective,
    check_option,
    framed,
    joined_positions,
    missing,
    number_documents,
    table_of,
)


class Masked(Objective):
    """[CLS] text [SEP], where the tokenizer has these; documents end with [SEP]."""

    ARCHITECTURES = ("encoder",)
    OPTIONS = "masked"

    def _set_up(self, load_tokenizer, decoder_start_id):
        options, tokenizer = self.config.masked, load_tokenizer()
        check_option("masked.rate", options.rate, 0, 1, "(]")
        check_option("masked.mask_share", options.mask_share, 0, 1)
        check_option("masked.random_share", options.random_share, 0, 1)
        if options.mask_share + options.random_share > 1 + 1e-9:
            raise UserError(
                f"data.masked.mask_share={options.mask_share} and data.masked.random_share="
                f"{options.random_share} are shares of the same tokens: together at most 1."
            )
        self._tokens = tokens = tokenizer.special_tokens()
        if tokens.mask_id is None:
            raise missing(self.config.objective, "a mask token", "--config.tokenizer.mask=True")
        self._special = table_of(tokens.special_ids, tokens.vocab_size)
        self._ordinary = np.flatnonzero(~self._special).astype(np.int32)
        self._word_starts = tokenizer.word_starts() if options.whole_word else None
        if options.whole_word and not self._word_starts[self._ordinary].any():
            raise UserError(
                "data.masked.whole_word=True: no token of this tokenizer begins a word. Leave it "
                "False, or prepare the data with another tokenizer."
            )
        frame = (tokens.cls_id is not None) + (tokens.sep_id is not None)
        self.raw_length = self.sequence_length - frame
        if not options.whole_word:  # the loss then scores no other places
            self.targets_per_row = int(options.rate * self.raw_length) + 1

    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        """Targets are the tokens as they were, with weight 1 where chosen."""
        row, begins = self._row(window)
        n = len(row)
        inputs, targets, weights, positions, segments = (
            np.zeros(self.sequence_length, kind)
            for kind in (np.int32, np.int32, np.float32, np.int32, np.int32)
        )
        places = self._choose(row, begins, rng)
        inputs[:n] = targets[:n] = row
        segments[:n], positions[:n] = number_documents(begins)
        weights[places] = 1
        options, draw = self.config.masked, rng.random(len(places))
        inputs[places[draw < options.mask_share]] = self._tokens.mask_id
        draw -= options.mask_share
        replaced = places[(draw >= 0) & (draw < options.random_share)]
        inputs[replaced] = self._ordinary[rng.integers(len(self._ordinary), size=len(replaced))]
        return Batch(inputs, targets, weights, positions, segments)

    def joined(self, batch: Batch) -> Batch:
        segments = (batch.segment_ids > 0).astype(np.int32)  # padding would be seen
        return joined_positions(batch)._replace(segment_ids=segments)

    def _row(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The row's tokens, and where documents begin."""
        tokens, special = window.tokens, self._tokens
        if special.sep_id is not None and special.eos_id not in (None, special.sep_id):
            tokens = np.where(tokens == special.eos_id, special.sep_id, tokens)
        row = framed(tokens, special.cls_id, special.sep_id)
        begins, lead = np.zeros(len(row), bool), int(special.cls_id is not None)
        begins[lead : lead + len(tokens)] = window.starts
        begins[lead] = False  # the first document begins with [CLS], or before the window
        begins[0] = True
        return row, begins

    def _choose(
        self, row: np.ndarray, begins: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The places to predict, ascending."""
        ordinary = ~self._special[row]
        if self._word_starts is None:
            return np.sort(self._sample(np.flatnonzero(ordinary), rng))
        starts = self._word_starts[row] | begins | ~ordinary
        starts[1:] |= ~ordinary[:-1]  # so a special token is a word of its own
        word = np.cumsum(starts) - 1
        chosen = np.zeros(word[-1] + 1, bool)
        chosen[self._sample(word[ordinary & starts], rng)] = True
        return np.flatnonzero(chosen[word])

    def _sample(self, candidates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = int(self.config.masked.rate * len(candidates) + rng.random())
        return rng.permutation(candidates)[:count]


OBJECTIVE = Masked
