"""Fine-tuning of an encoder-decoder: a source to read, a target to write.

Both are wrapped as the tokenizer's family wraps a text (T5: x </s>; BART: <s> x </s>), as
transformers' DataCollatorForSeq2Seq has them. A row is one pair. Prepared data beside the rows are
read as in pre-training: span corruption where the tokenizer has sentinels, else denoising.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.objectives.base import PairObjective
from jaxllm.data.objectives.rows import Placed, RowObjective, no_end
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.formats import Pair
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.row import BadRow


class Seq2Seq(RowObjective, PairObjective):
    """Examples of `source` and `target`; the loss is on every token of the target."""

    FORMATS = ("source_target", "prompt_completion")
    READS = ("truncate",)
    STREAM = ("span_corruption", "denoising")

    def _prepare(self, decoder_start_id):
        tokens, config = self._tokens, self.config
        self._end = tokens.eos_id if tokens.sep_id is None else tokens.sep_id
        if self._end is None:
            raise no_end(config.objective)
        self._set_target(config.target_length or config.sequence_length, decoder_start_id, tokens)

    def encode(self, items: Sequence[Placed], labels: Labels) -> list[Example | BadRow]:
        pairs = [item for item, _ in items if isinstance(item, Pair)]
        texts = [text for pair in pairs for text in pair]
        encoded = iter(self._tokenizer.encode_batch(texts))
        return [
            self._example(next(encoded), next(encoded)) if isinstance(item, Pair) else
            BadRow(place, "prompt and completion are messages; an encoder-decoder reads text")
            for item, place in items
        ]

    def _example(self, source: list[int], target: list[int]) -> Example:
        wrapped = self._wrapped(target)
        if not len(wrapped) or wrapped[-1] != self._end:
            wrapped = np.append(wrapped, np.array(self._end, self._dtype))
        return {"source": self._wrapped(source), "target": wrapped}

    def size(self, example: Example) -> int:
        """As long as the source; where it is the target that is too long, longer than a row."""
        source, excess = len(example["source"]), len(example["target"]) - self.target_length
        return max(source, self.sequence_length + excess) if excess > 0 else source

    def cut(self, example: Example) -> Example:
        return {
            "source": self._shortened(example["source"], self.sequence_length),
            "target": self._shortened(example["target"], self.target_length),
        }

    def example(self, pack: Sequence[Example], rng: np.random.Generator) -> Batch:
        return self._pair(pack[0]["source"], pack[0]["target"])


OBJECTIVE = Seq2Seq
