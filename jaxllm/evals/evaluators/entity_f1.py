"""F1, precision and recall of named entities, by seqeval's strict IOB2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.loader import Validation
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.evaluators.base import Measured, label_names
from jaxllm.evals.extras import need
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model


class EntityF1(Measured):
    """Rows of objective `token_classification`; a word's tag is that of its first token."""

    HEAD = "token_classification"
    METRICS = ("entity_f1",)

    def check(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().check(config, tokenizer)
        need("seqeval", f"eval.evaluators: {self.name!r}")
        names = config.head.label_names
        if bad := [name for name in names if name != "O" and name[:2] not in ("B-", "I-")]:
            raise UserError(
                f"eval.evaluators: {self.name!r} reads tags of IOB2 (O, B-TYPE, I-TYPE), and one "
                f"of the model's is {bad[0]!r}: leave it out, or mark where entities begin."
            )

    def answers(
        self, model: Model, tokenizer: Tokenizer, data: Validation
    ) -> Iterator[tuple[list[str], list[str]]]:
        names = label_names(model.config)
        for batch, likeliest in self.scored(model, data):
            for row, weights, mine in zip(batch.targets, batch.weights, likeliest, strict=True):
                words = np.flatnonzero(weights > 0)
                if len(words):
                    yield [names[i] for i in mine[words]], [names[i] for i in row[words]]


EVALUATOR = EntityF1
