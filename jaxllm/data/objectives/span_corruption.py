"""T5's span corruption: spans of the text are dropped, each leaves a sentinel, and the decoder says
what they were.

Raffel et al. 2020 (arXiv:1910.10683), section 3.1.4 and the published code (`random_spans_helper`,
`random_spans_noise_mask`). For "Thank you for inviting me to your party last week ." the encoder
may read "Thank you <extra_id_0> me to your party <extra_id_1> week . </s>" with the target
"<extra_id_0> for inviting <extra_id_1> last </s>". A row is text of several documents, as T5's.
"""

from __future__ import annotations

import math

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch, Window
from jaxllm.data.objectives import spans
from jaxllm.data.objectives.base import PairObjective, check_option, missing


class SpanCorruption(PairObjective):
    """Rows whose encoder side has no padding, and the targets that follow from it."""

    OPTIONS = "spans"

    def _set_up(self, load_tokenizer, decoder_start_id):
        options, name = self.config.spans, self.config.objective
        check_option("spans.density", options.density, 0, 1, "()")
        check_option("spans.mean_length", options.mean_length, 1, math.inf, "[)")
        shape = self._shape = (options.density, options.mean_length)
        self.raw_length = spans.raw_length(self.sequence_length, *shape)
        if not self.raw_length:
            raise UserError(
                f"data.sequence_length={self.sequence_length} is too short for data.objective="
                f"{name!r}: set at least {spans.lengths(spans.LEAST, *shape)[0]}."
            )
        tokens = load_tokenizer().special_tokens()
        if tokens.eos_id is None:
            raise missing(name, "an end-of-text token", "--config.output.append_eos=True")
        self._set_target(spans.lengths(self.raw_length, *shape)[1], decoder_start_id, tokens)
        _, count = spans.counts(self.raw_length, *shape)
        if count > len(tokens.sentinel_ids):
            raise UserError(
                f"data.objective={name!r} needs {count} sentinels (<extra_id_0> …) for "
                f"data.sequence_length={self.sequence_length}, and the tokenizer of the data has "
                f"{len(tokens.sentinel_ids)}. Set a shorter data.sequence_length or a larger "
                "data.spans.mean_length, or prepare the data again with "
                f"--config.tokenizer.sentinels={max(count, 100)} (T5 has 100)."
            )
        self._sentinels = np.array(tokens.sentinel_ids, np.int32)
        self._end = np.array([tokens.eos_id], np.int32)

    def longest(self, num_tokens: int) -> int:
        return spans.lengths(num_tokens + 1, *self._shape)[0] - 1

    def example(self, window: Window, rng: np.random.Generator) -> Batch:
        """Both sides end with the end of text, which padding follows in a short window only."""
        tokens = window.tokens
        noise = spans.noise_mask(len(tokens), *self._shape, rng)
        first = noise.copy()
        first[1:] &= ~noise[:-1]
        sentinels = self._sentinels[: np.count_nonzero(first)]
        source = tokens.copy()
        source[first] = sentinels
        target = np.insert(tokens[noise], np.flatnonzero(first[noise]), sentinels)
        return self._pair(
            np.concatenate([source[~noise | first], self._end]),
            np.concatenate([target, self._end]),
        )


OBJECTIVE = SpanCorruption
