"""Prompts continued during training, to look at how the text changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import check_prompts
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model


class SampleEvaluator:
    """Continues each prompt by up to `tokens` tokens, with the same draws each time."""

    def __init__(self, prompts: Sequence[str], tokens: int):
        self._prompts, self._tokens = prompts, tokens

    def check(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Raises UserError now for what would fail after hours of training."""
        try:
            check_prompts(config, tokenizer, self._prompts, self._tokens)
        except UserError as error:
            raise UserError(f"eval.prompts: {error}") from error

    def __call__(self, model: Model, tokenizer: Tokenizer) -> Iterable[dict[str, Any]]:
        """A record for each prompt."""
        completions = generate(
            model, tokenizer, self._prompts, max_new_tokens=self._tokens,
            sampling=Sampling(temperature=0.8, top_k=200),
        )
        for prompt, completion in zip(self._prompts, completions, strict=True):
            yield {"split": "samples", "prompt": prompt, "text": completion.text}
