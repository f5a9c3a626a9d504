"""Choosing the next token from its scores.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxllm.core.errors import UserError

_OFF = -jnp.inf


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the filters apply in the order of the fields."""

    temperature: float = 1.0  # 0: always the likeliest token
    top_k: int = 0  # only the k likeliest; 0: all
    top_p: float = 1.0  # the likeliest whose probabilities add up to p (Holtzman et al. 2020)
    min_p: float = 0.0  # at least this share of the likeliest one's (Nguyen et al. 2024)

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        limits = {
            "temperature": self.temperature >= 0, "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1, "min_p": 0 <= self.min_p <= 1,
        }
        wanted = {
            "temperature": "at least 0", "top_k": "at least 0 (0: all)",
            "top_p": "above 0 and at most 1", "min_p": "between 0 and 1",
        }
        for name, good in limits.items():
            if not good:
                raise UserError(f"{name}={getattr(self, name)} must be {wanted[name]}.")


def sample(logits_BV: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """One token id per row, int32 [B], from float32 scores."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    # from the largest down: a tiny temperature makes infinities only of what is never drawn
    below_BV = logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)
    filtered = filter_logits(below_BV / sampling.temperature, sampling)
    return jax.random.categorical(key, filtered, axis=-1).astype(jnp.int32)


def filter_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """The scores with every token that may not be drawn at minus infinity."""
    if sampling.top_k and sampling.top_k < logits_BV.shape[-1]:
        smallest = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < smallest, _OFF, logits_BV)
    if sampling.top_p < 1:
        descending = -jnp.sort(-logits_BV, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        # the token that crosses p is kept; the likeliest always is
        kept = before < sampling.top_p
        smallest = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < smallest, _OFF, logits_BV)
    if sampling.min_p > 0:
        floor = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
        logits_BV = jnp.where(logits_BV < floor, _OFF, logits_BV)
    return logits_BV
