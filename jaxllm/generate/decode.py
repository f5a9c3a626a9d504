"""Autoregressive generation with a key/value cache.

The prompt goes through the model once; then tokens are decoded `CHUNK` at a time inside one jitted
scan, so that the host only sees text. Beam search runs as one program. Prompt and cache lengths
are rounded up to a few sizes, so that only a few programs are compiled.

Shapes: B batch, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.generate.beams import BeamSearch, search
from jaxllm.generate.rows import NO_TOKEN, Completion, OnText, Row, emit
from jaxllm.generate.sampling import Sampling, sample
from jaxllm.generate.steps import (
    Prompts,
    State,
    TokenRules,
    advance,
    begin,
    check_prompts,
    prepare,
    slots_for,
)
from jaxllm.models.load import Model
from jaxllm.models.transformer import Transformer
from jaxllm.nn.attention import Cache
from jaxllm.nn.module import bind

CHUNK = 16  # tokens decoded between two looks at the text


def generate(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], *, max_new_tokens: int = 100,
    sampling: Sampling | None = None, beams: BeamSearch | None = None,
    rules: TokenRules | None = None, stop: Sequence[str] = (), seed: int = 0,
    on_text: OnText | None = None, warn: Callable[[str], None] | None = None,
) -> list[Completion]:
    """Continues every prompt, or answers it where an encoder reads it.

    Tokens are drawn by `sampling`, or searched with `beams`. `on_text` gets the text of each row
    as it appears, from a beam search all at once. `warn` is told when the model's
    positions leave room for fewer tokens than `max_new_tokens`.

    Raises:
      UserError: see `check_prompts`; also a seed out of range.
    """
    if not 0 <= seed < 2**32:  # jax.random.key keeps 32 bits
        raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1 = {2**32 - 1}.")
    sampling = sampling or Sampling()
    (beams or sampling).check()
    rules = rules or TokenRules(() if tokenizer.eos_id is None else (tokenizer.eos_id,))
    if not prompts:
        return []
    config = model.config
    ids, limit = check_prompts(config, tokenizer, prompts, max_new_tokens, warn)
    encoded = config.architecture == "encoder_decoder"
    rows = [Row(tokenizer, () if encoded else row, rules.eos_ids, stop) for row in ids]
    arrays = prepare(config, tokenizer, ids)
    # a padded embedding has more rows than the tokenizer has tokens
    vocabulary = min(tokenizer.vocab_size, config.vocab_size)
    if beams is not None:
        found, counts = search(model, arrays, beams, rules, vocabulary, limit)
        for row, tokens, count in zip(rows, found.tolist(), counts.tolist(), strict=True):
            for token in tokens[:count]:
                row.push(token, limit)
        emit(rows, np.zeros((0, len(rows)), np.int32), limit, on_text)
    else:
        draw(model, vocabulary, arrays, rows, limit, sampling, rules, seed, on_text)
    return [row.completion() for row in rows]


def draw(
    model: Model, vocabulary: int, prompts: Prompts, rows: list[Row], limit: int,
    sampling: Sampling, rules: TokenRules, seed: int = 0, on_text: OnText | None = None,
) -> None:
    """Draws tokens, of the first `vocabulary` ones, until every row has ended or has `limit` of
    them; rows are given what is drawn."""
    static = (model.structure, sampling, rules, vocabulary)
    keys = jax.random.split(jax.random.key(seed), 2)
    slots = slots_for(model.config, prompts, limit + CHUNK)
    token_B, positions_B, state = _prefill(
        static, slots, model.params, prompts, jnp.int32(limit), keys[0]
    )
    done = emit(rows, np.asarray(token_B)[None], limit, on_text)
    cache, rest = state.cache, state._replace(cache=None)
    count = 1
    while not done and count < limit:
        key = jax.random.fold_in(keys[1], count)
        place = (positions_B + count - 1, jnp.int32(count), jnp.int32(limit))
        tokens_CB, cache = _decode(static, model.params, token_B, place, cache, rest, key)
        done = emit(rows, np.asarray(tokens_CB), limit, on_text)
        token_B, count = tokens_CB[-1], count + CHUNK


@partial(jax.jit, static_argnums=(0, 1))
def _prefill(static, slots, params, prompts, limit, key):
    """The first new token of each row, its position, and the state with the prompts in it."""
    structure, *drawing = static
    model = bind(structure, params)
    logits_BV, positions_B, state = begin(model, prompts, slots)
    token_B = _next(drawing, logits_BV, jnp.int32(0), limit, key)
    return _everywhere(model, token_B), positions_B, state


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def _decode(static, params, token_B, place, cache: Cache, rest: State, key):
    """The next CHUNK tokens [C, B] after `token_B`.

    `place` is the position of that token, the number of the next one, and the limit to it.
    """
    structure, *drawing = static
    model = bind(structure, params)
    positions_B, count, limit = place

    def body(carry, key):
        token_B, positions_B, count, cache = carry
        logits_BV, state = advance(model, token_B, positions_B, rest._replace(cache=cache))
        token_B = _next(drawing, logits_BV, count, limit, key)
        return (token_B, positions_B + 1, count + 1, state.cache), token_B

    start = (token_B, positions_B, count, cache)
    (*_, cache), tokens_CB = jax.lax.scan(body, start, jax.random.split(key, CHUNK))
    return _everywhere(model, tokens_CB), cache


def _everywhere(model: Transformer, x: jax.Array) -> jax.Array:
    """On every device: each host reads it."""
    return jax.lax.with_sharding_constraint(x, model.compute.sharding.replicated())


def _next(drawing, logits_BV, index, limit, key):
    sampling, rules, vocabulary = drawing
    scores_BV = rules.apply(logits_BV[:, :vocabulary], index, limit)
    token_B = sample(scores_BV, key, sampling)
    return jnp.where(jnp.isnan(scores_BV).any(axis=-1), NO_TOKEN, token_B)
