"""ROUGE, BLEU, chrF and exact match of what an encoder-decoder writes for its sources, greedily."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.data.loader import Validation
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.evals.evaluators.base import Measured
from jaxllm.evals.extras import need
from jaxllm.generate.decode import draw
from jaxllm.generate.rows import Row
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import Prompts, TokenRules, start_id
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model


class Generation(Measured):
    """Rows of objective `seq2seq`: at most as many tokens are written as a target may have."""

    HEAD = "lm"
    METRICS = ("rouge", "bleu", "chrf", "squad")

    def check(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().check(config, tokenizer)
        if config.architecture != "encoder_decoder":
            raise UserError(
                f"eval.evaluators: {self.name!r} continues the rows of an encoder-decoder: leave "
                "it out."
            )
        for module, library in (("rouge_score", "rouge-score"), ("sacrebleu", "")):
            need(module, f"eval.evaluators: {self.name!r}", library)

    def answers(
        self, model: Model, tokenizer: Tokenizer, data: Validation
    ) -> Iterator[tuple[str, str]]:
        for batch in self.batches(data):
            texts = self._written(model, tokenizer, batch)
            for text, targets, weights in zip(texts, batch.targets, batch.weights, strict=True):
                if weights.any():  # else padding of the last batch
                    yield text, tokenizer.decode(targets[weights > 0].tolist())

    def _written(self, model: Model, tokenizer: Tokenizer, batch: Batch) -> list[str]:
        ids, segments = batch.encoder_inputs, batch.encoder_segment_ids
        lengths = np.maximum((segments != 0).sum(axis=1), 1).astype(np.int32)
        rules = TokenRules(() if tokenizer.eos_id is None else (tokenizer.eos_id,))
        rows = [Row(tokenizer, (), rules.eos_ids, ()) for _ in ids]
        for row, weights in zip(rows, batch.weights, strict=True):
            row.reason = "" if weights.any() else "stop"
        start = np.int32(start_id(model.config, tokenizer))
        vocabulary = min(tokenizer.vocab_size, model.config.vocab_size)
        draw(
            model, vocabulary, Prompts(ids, lengths, start), rows, batch.targets.shape[1],
            Sampling(temperature=0.0), rules,
        )
        return [row.text for row in rows]


EVALUATOR = Generation
