"""Accuracy, macro and micro F1 and Matthews' correlation of a classifier of texts."""

from __future__ import annotations

from collections.abc import Iterator

from jaxllm.data.loader import Validation
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.evaluators.base import Measured, label_names
from jaxllm.models.load import Model


class Classification(Measured):
    """Rows of objective `classification`."""

    HEAD = "sequence_classification"
    METRICS = ("accuracy", "f1", "matthews")

    def answers(
        self, model: Model, tokenizer: Tokenizer, data: Validation
    ) -> Iterator[tuple[object, object]]:
        names = label_names(model.config)
        for batch, likeliest in self.scored(model, data):
            for row, weights, mine in zip(batch.targets, batch.weights, likeliest, strict=True):
                if weights[0] > 0:  # 0: padding of the last batch
                    yield names[int(mine)], names[int(row[0])]


EVALUATOR = Classification
