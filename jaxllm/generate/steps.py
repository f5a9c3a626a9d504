"""What sampling and beam search share: prompts as arrays, and a model's next scores with its cache.

The prompt goes through the model once. A decoder reads it as the beginning of its text; an
encoder-decoder encodes it, and its decoder begins with the start token.

Shapes: B batch, T prompt tokens, S cache slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.models.tower import Inputs, Memory
from jaxllm.models.transformer import Transformer
from jaxllm.nn.attention import Cache

MOST_TOKENS = 2**20  # of which a cache has room for each


@dataclass(frozen=True)
class TokenRules:
    """Tokens with a part in generation."""

    eos_ids: tuple[int, ...] = ()  # each ends the text
    first_id: int | None = None  # always the first new token (BART's forced_bos_token_id)
    last_id: int | None = None  # always the last that is allowed (forced_eos_token_id)

    def apply(self, scores_BV: jax.Array, index: jax.Array, limit: jax.Array) -> jax.Array:
        """The scores of new token `index` of at most `limit`; a forced one has 0, others -inf."""
        for place, token in ((0, self.first_id), (limit - 1, self.last_id)):
            if token is not None:
                only_V = jnp.where(jnp.arange(scores_BV.shape[-1]) == token, 0.0, -jnp.inf)
                scores_BV = jnp.where(index == place, only_V, scores_BV)
        return scores_BV


class Prompts(NamedTuple):
    """Prompts padded on the right."""

    tokens_BT: jax.Array
    lengths_B: jax.Array
    start_id: jax.Array  # what the decoder of an encoder-decoder begins with; of others not read


class State(NamedTuple):
    """What a model remembers of each row: its own tokens, and the encoder's output."""

    cache: Cache
    memory: Memory | None = None
    memory_cache: Cache | None = None


def prepare(config: ModelConfig, tokenizer: Tokenizer, ids: Sequence[Sequence[int]]) -> Prompts:
    """The prompts' ids as arrays."""
    tokens_BT = np.zeros((len(ids), rounded(max(len(row) for row in ids))), np.int32)
    for row, prompt_ids in zip(tokens_BT, ids, strict=True):
        row[: len(prompt_ids)] = prompt_ids
    start = start_id(config, tokenizer) if config.architecture == "encoder_decoder" else 0
    lengths_B = np.array([len(row) for row in ids], np.int32)
    return Prompts(jnp.asarray(tokens_BT), jnp.asarray(lengths_B), jnp.int32(start))


def slots_for(config: ModelConfig, prompts: Prompts, new_tokens: int) -> int:
    """Cache slots for the prompts, where the decoder reads them, and so many new tokens."""
    before = 1 if config.architecture == "encoder_decoder" else prompts.tokens_BT.shape[1]
    return rounded(before + new_tokens)


def begin(
    model: Transformer, prompts: Prompts, slots: int
) -> tuple[jax.Array, jax.Array, State]:
    """Scores of each row's first new token [B, V], its position [B], and the state before it."""
    B, T = prompts.tokens_BT.shape
    row = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    cache = model.decoder.empty_cache(B, slots)
    if model.encoder is None:
        prefix_BS = None
        if model.config.bidirectional_prefix:
            prefix_BS = jnp.arange(slots)[None] < prompts.lengths_B[:, None]
        # Padding right of a prompt is written too; decoding overwrites a slot before it is seen.
        hidden, cache = model.decode(Inputs(prompts.tokens_BT, row, prefix=prefix_BS), cache)
        last_B1D = jnp.take_along_axis(hidden, (prompts.lengths_B - 1)[:, None, None], axis=1)
        return model.logits(last_B1D)[:, 0], prompts.lengths_B, State(cache)
    segments = (row < prompts.lengths_B[:, None]).astype(jnp.int32)
    memory = model.encode(Inputs(prompts.tokens_BT, row, segments))
    state = State(cache, memory, model.decoder.memory_cache(memory))
    start_B = jnp.full(B, prompts.start_id, jnp.int32)
    logits_BV, state = advance(model, start_B, jnp.zeros(B, jnp.int32), state)
    return logits_BV, jnp.ones(B, jnp.int32), state


def advance(
    model: Transformer, token_B: jax.Array, positions_B: jax.Array, state: State
) -> tuple[jax.Array, State]:
    """Scores [B, V] of the token after `token_B`, which stands at `positions_B`."""
    inputs = Inputs(token_B[:, None], positions_B[:, None])
    hidden, cache = model.decode(inputs, state.cache, state.memory, state.memory_cache)
    return model.logits(hidden)[:, 0], state._replace(cache=cache)


def start_id(config: ModelConfig, tokenizer: Tokenizer) -> int:
    """The token that an encoder-decoder's decoder begins with.

    Raises:
      UserError: neither the model nor the tokenizer says which.
    """
    if config.decoder_start_id >= 0:
        return config.decoder_start_id
    if tokenizer.pad_id is None:
        raise UserError(
            "The decoder begins with the padding token, and the tokenizer has none: set "
            "model.decoder_start_id."
        )
    return tokenizer.pad_id


class ChatText(str):
    """Text that a chat template wrote: the special tokens that it names count, and none is added.
    """


def check_prompts(
    config: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int,
    warn: Callable[[str], None] | None = None,
) -> tuple[list[list[int]], int]:
    """The prompts' ids, and how many tokens may be generated: learned positions end somewhere.

    `warn` is told when those are fewer than `max_new_tokens`.

    Raises:
      UserError: a model that writes no text, an empty prompt, one that is no Unicode text, or one
        that leaves no room in the model's context.
    """
    check_writes(config)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens} must be at least 1.")
    if max_new_tokens > MOST_TOKENS:
        raise UserError(f"max_new_tokens={max_new_tokens} must be at most {MOST_TOKENS}.")
    ids = [encode(tokenizer, prompt, f"prompt {i + 1}") for i, prompt in enumerate(prompts)]
    for index, row in enumerate(ids):
        if not row:
            raise UserError(f"prompt {index + 1} is empty: give at least one character.")
    encoded = config.architecture == "encoder_decoder"
    if encoded:
        ids = [tokenizer.with_special_tokens(row)[0] for row in ids]
    else:
        first = beginning(tokenizer)
        ids = [
            row if isinstance(prompt, ChatText) else [*first, *row]
            for prompt, row in zip(prompts, ids, strict=True)
        ]
    positions = config.positions
    if positions.kind != "learned":
        return ids, max_new_tokens
    longest = max(len(row) for row in ids)
    if longest >= positions.max_length + encoded:
        raise UserError(
            f"The prompt has {longest} tokens and the model {positions.max_length} learned "
            "positions: shorten the prompt."
        )
    room = positions.max_length - (0 if encoded else longest)
    if room < max_new_tokens and warn:
        after = "" if encoded else f" after a prompt of {longest} tokens"
        warn(
            f"warning: the model has {positions.max_length} learned positions, so it writes at "
            f"most {room} tokens{after}, not max_new_tokens={max_new_tokens}."
        )
    return ids, min(max_new_tokens, room)


def encode(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    """The ids of a text; a lone surrogate, such as Python makes of bytes that are not UTF-8, has
    none.

    Raises:
      UserError: `name` has such a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} is no Unicode text: its character {error.start + 1} is "
            f"{text[error.start]!a}, half of a pair or a byte that is not UTF-8. Give it as UTF-8."
        ) from error
    if isinstance(text, ChatText):
        return tokenizer.encode_chat([text])[0][0]
    return tokenizer.encode(text)


def check_writes(config: ModelConfig) -> None:
    """Raises UserError for a model that cannot continue a text, saying what it can do."""
    kind = config.head.kind
    if config.architecture != "encoder" and kind in LANGUAGE_HEADS:
        return
    if kind in LANGUAGE_HEADS:
        can = "fill in masked tokens: use LoadedModel.fill_mask"
    elif kind == "embedding":
        can = "embed texts: use LoadedModel.embed"
    else:
        can = "score texts: use LoadedModel.classify"
    raise UserError(
        f"The model has model.architecture={config.architecture!r} and model.head.kind={kind!r}: "
        f"it generates no text. It can {can}."
    )


def beginning(tokenizer: Tokenizer) -> list[int]:
    """The beginning of text, where the tokenizer puts it before every text (Llama)."""
    around, _ = tokenizer.with_special_tokens([])
    bos = tokenizer.bos_id
    return [bos] if tokenizer.cls_id is None and bos is not None and around[:1] == [bos] else []


def rounded(length: int) -> int:
    """The next multiple of a power of two that grows with the length."""
    step = max(16, 1 << max((length - 1).bit_length() - 2, 0))
    return -(-length // step) * step
