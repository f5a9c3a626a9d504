"""BART's denoising: sentences change places, spans become a mask each, and the decoder restores it.

Lewis et al. 2020 (arXiv:1910.13461), sentence permutation and text infilling as in fairseq's
DenoisingDataset: spans of words with Poisson distributed lengths, each replaced by one mask token;
a length of 0 inserts a mask. There a row is of one document; here neither a span nor a permutation
leaves its document, and special tokens stay where they are.
"""

from __future__ import annotations

import math

import numpy as np

from jaxllm.data.batch import Batch, Window
from jaxllm.data.objectives.base import (
    PairObjective,
    check_option,
    framed,
    missing,
    table_of,
)


class Denoising(PairObjective):
    """<s> text </s> on both sides, where the tokenizer has these; the encoder's is corrupted."""

    OPTIONS = "denoising"

    def _set_up(self, load_tokenizer, decoder_start_id):
        options, name, tokenizer = self.config.denoising, self.config.objective, load_tokenizer()
        check_option("denoising.density", options.density, 0, 1, "[)")
        check_option("denoising.mean_length", options.mean_length, 1, math.inf, "[)")
        tokens = tokenizer.special_tokens()
        if tokens.mask_id is None:
            raise missing(name, "a mask token", "--config.tokenizer.mask=True")
        self._first = tokens.bos_id if tokens.cls_id is None else tokens.cls_id
        self._last = tokens.eos_id if tokens.sep_id is None else tokens.sep_id
        if self._last is None:
            raise missing(name, "an end-of-text token", "--config.output.append_eos=True")
        self._mask, self._special = tokens.mask_id, table_of(tokens.special_ids, tokens.vocab_size)
        self._sentence_ends = (
            tokenizer.sentence_ends() & ~self._special if options.permute_sentences else None
        )
        self._word_starts = np.ones(tokens.vocab_size, bool)
        if options.whole_word and (known := tokenizer.word_starts())[~self._special].any():
            self._word_starts = known
        frame = 1 + (self._first is not None)
        self.raw_length = self.sequence_length - frame
        self._set_target(self.sequence_length, decoder_start_id, tokens)

    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        """The target is the text as it was."""
        tokens = window.tokens
        special = self._special[tokens]
        begins = window.starts | special  # of what noise stays inside
        begins[1:] |= special[:-1]
        begins[0] = True
        words = self._word_starts[tokens] | begins
        source = tokens
        if self._sentence_ends is not None:
            order, sentences = permutation(self._sentence_ends[tokens], begins, rng)
            source, words = tokens[order], (words | sentences)[order]
        source = self._infill(source, words, begins, special, rng)
        return self._pair(
            framed(source, self._first, self._last), framed(tokens, self._first, self._last)
        )

    def _infill(
        self, tokens: np.ndarray, word_starts: np.ndarray, begins: np.ndarray,
        special: np.ndarray, rng: np.random.Generator,
    ) -> np.ndarray:
        """The tokens with spans of words masked; `begins` are word starts that no span crosses."""
        word = np.cumsum(word_starts) - 1
        candidates = word[word_starts & ~special]
        lengths = span_lengths(
            math.ceil(len(candidates) * self.config.denoising.density),
            self.config.denoising.mean_length, rng,
        )
        inserts = np.count_nonzero(lengths == 0)
        lengths = lengths[lengths > 0]
        starts = rng.permutation(candidates)[: len(lengths)]
        walls = np.append(word[begins], word[-1] + 1)
        stops = np.minimum(starts + lengths, walls[np.searchsorted(walls, starts, "right")])
        starts_here, inside = np.zeros((2, word[-1] + 2), np.int32)
        starts_here[starts] = 1
        np.add.at(inside, starts + 1, 1)
        np.add.at(inside, stops, -1)
        inside = np.cumsum(inside)[word] > 0  # words after the first of a span
        here = starts_here[word] > 0
        masked = here & word_starts & ~inside
        kept = np.where(masked, self._mask, tokens)[masked | ~(inside | here)]
        return self._insert(kept, min(inserts, self.raw_length - len(kept)), rng)

    def _insert(self, tokens: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """The tokens with `count` masks among them."""
        if not count:
            return tokens
        result = np.full(len(tokens) + count, self._mask, np.int32)
        old = np.ones(len(result), bool)
        old[rng.permutation(len(result))[:count]] = False
        result[old] = tokens
        return result


def permutation(
    ends: np.ndarray, begins: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The places in their new order, and where a sentence begins in the old one (bool).

    A sentence goes to the last of a run of `ends` ("?!", ".\\n"), and stays between `begins`.
    """
    sentences = begins.copy()
    sentences[1:] |= ends[:-1] & ~ends[1:]
    sentence = np.cumsum(sentences) - 1
    part = np.cumsum(begins)[sentences]
    rank = np.empty(len(part), np.int64)
    rank[np.lexsort((rng.random(len(part)), part))] = np.arange(len(part))
    return np.argsort(rank[sentence], kind="stable"), sentences


def span_lengths(budget: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson distributed lengths until they add up to `budget`; the last is cut to fit."""
    lengths = np.empty(0, np.int64)
    while lengths.sum() < budget:
        lengths = np.concatenate([lengths, rng.poisson(mean, budget)])
    if not budget:
        return lengths
    total = np.cumsum(lengths)
    count = np.searchsorted(total, budget) + 1
    lengths = lengths[:count]
    lengths[-1] -= total[count - 1] - budget
    return lengths


OBJECTIVE = Denoising
