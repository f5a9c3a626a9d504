"""`jaxllm.load(model)`: a trained model for notebooks and scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data import tokenizers
from jaxllm.generate.decode import Completion, OnText, generate, rounded
from jaxllm.generate.sampling import Sampling
from jaxllm.models.load import Model, find_model, load_params
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind


class LoadedModel:
    """A model with its tokenizer."""

    def __init__(self, model: Model, tokenizer: tokenizers.Tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def generate(
        self, prompts: str | Sequence[str], *, max_new_tokens: int = 100,
        temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
        stop: Sequence[str] = (), seed: int = 0, on_text: OnText | None = None,
    ) -> list[Completion]:
        """Continues the prompts; see `jaxllm.generate.decode.generate`."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return generate(
            self.model, self.tokenizer, prompts, max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p, min_p), stop=stop, seed=seed,
            on_text=on_text,
        )

    def score(self, texts: str | Sequence[str]) -> list[np.ndarray]:
        """Log-probability in nats of every token of each text given those before it.

        The first token has none before it: a text of n tokens gives n - 1 numbers.

        Raises:
          UserError: a text of fewer than two tokens, or of more than the model has positions.
        """
        texts = [texts] if isinstance(texts, str) else texts
        ids = [self.tokenizer.encode(text) for text in texts]
        for row, text in zip(ids, texts, strict=True):
            if len(row) < 2:
                raise UserError(f"{text!r} has {len(row)} tokens: a score needs two at least.")
        longest = max(len(row) for row in ids)
        self.model.config.check_length(longest, "tokens of the longest text")
        tokens_BT = np.zeros((len(ids), rounded(longest)), np.int32)
        for row, tokens in zip(tokens_BT, ids, strict=True):
            row[: len(tokens)] = tokens
        scores_BT = np.asarray(_score(self.model.structure, self.model.params, tokens_BT))
        return [scores[: len(row) - 1] for scores, row in zip(scores_BT, ids, strict=True)]


def load(model: str, *, dtype: str = "auto") -> LoadedModel:
    """Opens a run directory (`RUN`, `RUN@STEP`) or a checkpoint.

    Raises:
      UserError: there is no such model.
    """
    from jaxllm.core import devices

    devices.start()
    saved = find_model(model)
    warn = partial(print, file=sys.stderr)
    loaded = load_params(saved, make_compute(dtype=dtype), warn)
    return LoadedModel(loaded, tokenizers.load(saved.run.tokenizer))


@partial(jax.jit, static_argnums=0)
def _score(structure, params, tokens_BT: jax.Array) -> jax.Array:
    """Log-probabilities [B, T - 1] of all tokens but the first."""
    model = bind(structure, params)
    B, T = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    logits = model.logits(model.hidden(tokens_BT, positions_BT))
    log_probabilities = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    return jnp.take_along_axis(log_probabilities, tokens_BT[:, 1:, None], axis=-1)[..., 0]
