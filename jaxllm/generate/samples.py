"""Prompts continued during training, to look at how the text changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.generate.decode import generate
from jaxllm.generate.sampling import Sampling
from jaxllm.models.load import Model


def sample_evaluator(
    prompts: Sequence[str], tokens: int
) -> Callable[[Model, Tokenizer], Iterable[dict[str, Any]]]:
    """An evaluator that continues each prompt by `tokens` tokens, with the same draws each time."""

    def evaluate(model: Model, tokenizer: Tokenizer) -> Iterable[dict[str, Any]]:
        completions = generate(
            model, tokenizer, prompts, max_new_tokens=tokens,
            sampling=Sampling(temperature=0.8, top_k=200),
        )
        for prompt, completion in zip(prompts, completions, strict=True):
            yield {"split": "samples", "prompt": prompt, "text": completion.text}

    return evaluate
