"""Classification of a text: the label's id is the target of the row's first place, weight 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.objectives.rows import Placed, RowObjective
from jaxllm.data.rows.examples import Example
from jaxllm.data.rows.labels import Labels
from jaxllm.data.rows.row import BadRow


class Classification(RowObjective):
    """Examples of `ids`, wrapped as the tokenizer's family wraps a text, and one `label`."""

    ARCHITECTURES = ("encoder", "decoder")
    FORMATS = ("text_label",)
    LABELS = "label"
    READS = ("labels", "truncate")

    targets_per_row = 1

    def encode(self, items: Sequence[Placed], labels: Labels) -> list[Example | BadRow]:
        found: list[Example | BadRow] = []
        encoded = self._tokenizer.encode_batch([item.text for item, _ in items])
        for (item, place), ids in zip(items, encoded, strict=True):
            try:
                label = np.array(labels.codes([item.label], place), np.int32)
            except BadRow as error:
                found.append(error)
            else:
                found.append(
                    {"ids": self._wrapped(ids), "label": label} if ids else
                    BadRow(place, "the tokenizer writes nothing for its text")
                )
        return found

    def size(self, example: Example) -> int:
        return len(example["ids"])

    def cut(self, example: Example) -> Example:
        return {**example, "ids": self._shortened(example["ids"], self.sequence_length)}

    def example(self, pack: Sequence[Example], rng: np.random.Generator) -> Batch:
        inputs, targets, weights, positions, segments = self._one_text(pack[0]["ids"])
        targets[0], weights[0] = pack[0]["label"][0], 1
        return Batch(inputs, targets, weights, positions, segments)


OBJECTIVE = Classification
