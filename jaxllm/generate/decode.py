"""Autoregressive generation with a key/value cache.

The prompt goes through the model once (prefill); then tokens are decoded `CHUNK` at a time inside
one jitted scan, so that the host only sees text. Prompt and cache lengths are rounded up to a few
sizes, so that only a few programs are compiled.

Shapes: B batch, T prompt tokens, S cache slots, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import StreamDecoder, Tokenizer
from jaxllm.generate.sampling import Sampling, sample
from jaxllm.models.config import ModelConfig
from jaxllm.models.load import Model
from jaxllm.nn.attention import Cache
from jaxllm.nn.module import bind

CHUNK = 16  # tokens decoded between two looks at the text

OnText = Callable[[int, str], None]  # (row, new text)


@dataclasses.dataclass(frozen=True)
class Completion:
    """What was generated for one prompt."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop": end of text or a stop string; "length": out of tokens


def generate(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], *, max_new_tokens: int = 100,
    sampling: Sampling | None = None, stop: Sequence[str] = (), seed: int = 0,
    on_text: OnText | None = None,
) -> list[Completion]:
    """Continues every prompt; `on_text` gets the text of each row as it appears.

    Raises:
      UserError: an empty prompt, or one that leaves no room in the model's context.
    """
    sampling = sampling or Sampling()
    sampling.check()
    ids, limit = check_prompts(model.config, tokenizer, prompts, max_new_tokens)
    rows = [_Row(tokenizer, prompt_ids, stop) for prompt_ids in ids]
    width = rounded(max(len(row) for row in ids))
    slots = rounded(width + limit + CHUNK)
    tokens_BT = np.zeros((len(ids), width), np.int32)
    for row, prompt_ids in zip(tokens_BT, ids, strict=True):
        row[: len(prompt_ids)] = prompt_ids
    lengths_B = jnp.array([len(row) for row in ids], jnp.int32)

    keys = jax.random.split(jax.random.key(seed), 2)
    # a padded embedding has more rows than the tokenizer has tokens
    static = (model.structure, sampling, min(tokenizer.vocab_size, model.config.vocab_size))
    token_B, cache = _prefill(
        static, slots, model.params, jnp.asarray(tokens_BT), lengths_B, keys[0]
    )
    done = _emit(rows, np.asarray(token_B)[None], limit, on_text)
    count = 1
    while not done and count < limit:
        key = jax.random.fold_in(keys[1], count)
        tokens_CB, cache = _decode(
            static, model.params, token_B, lengths_B + count - 1, cache, key
        )
        done = _emit(rows, np.asarray(tokens_CB), limit, on_text)
        token_B, count = tokens_CB[-1], count + CHUNK
    return [Completion(row.text, tuple(row.ids), row.reason or "length") for row in rows]


@partial(jax.jit, static_argnums=(0, 1))
def _prefill(static, slots, params, tokens_BT, lengths_B, key):
    """The first new token of each row, and the cache with the prompts in it."""
    structure, sampling, vocabulary = static
    model = bind(structure, params)
    B, T = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    # Padding right of a prompt is written too; decoding overwrites a slot before it is visible.
    hidden, cache = model.decode(tokens_BT, positions_BT, model.empty_cache(B, slots))
    last_B1D = jnp.take_along_axis(hidden, (lengths_B - 1)[:, None, None], axis=1)
    return sample(model.logits(last_B1D)[:, 0, :vocabulary], key, sampling), cache


@partial(jax.jit, static_argnums=0, donate_argnums=4)
def _decode(static, params, token_B, positions_B, cache: Cache, key):
    """The next CHUNK tokens [C, B] after `token_B`, which stands at `positions_B`."""
    structure, sampling, vocabulary = static
    model = bind(structure, params)

    def body(carry, key):
        token_B, positions_B, cache = carry
        hidden, cache = model.decode(token_B[:, None], positions_B[:, None], cache)
        token_B = sample(model.logits(hidden)[:, 0, :vocabulary], key, sampling)
        return (token_B, positions_B + 1, cache), token_B

    start = (token_B, positions_B, cache)
    (_, _, cache), tokens_CB = jax.lax.scan(body, start, jax.random.split(key, CHUNK))
    return tokens_CB, cache


class _Row:
    """The text of one row: decoded as it comes, cut at a stop string, never in a character."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], stop: Sequence[str]):
        self._decoder = StreamDecoder(tokenizer)
        self._decoder.push(prompt_ids)  # so that a leading space, say, is seen as in the middle
        self._eos, self._stop = tokenizer.eos_id, tuple(s for s in stop if s)
        self._held = max((len(s) for s in self._stop), default=1) - 1
        self.ids: list[int] = []
        self.text, self.shown, self.reason = "", 0, ""

    def push(self, token: int, limit: int) -> None:
        """Takes the next token unless the row has ended."""
        if self.reason:
            return
        if token == self._eos:
            self.reason = "stop"
            self.text += self._decoder.flush()
            return
        self.ids.append(token)
        self.text += self._decoder.push([token])
        places = [self.text.find(s) for s in self._stop]
        if found := [place for place in places if place >= 0]:
            self.text, self.reason = self.text[: min(found)], "stop"
        elif len(self.ids) >= limit:
            self.text, self.reason = self.text + self._decoder.flush(), "length"

    def new_text(self) -> str:
        """Text that can be shown: all but what may become a stop string."""
        end = len(self.text) if self.reason else max(len(self.text) - self._held, self.shown)
        new, self.shown = self.text[self.shown : end], max(end, self.shown)
        return new


def _emit(rows: list[_Row], tokens_CB: np.ndarray, limit: int, on_text: OnText | None) -> bool:
    """Hands tokens to their rows; True when every row has ended."""
    for tokens_B in tokens_CB:
        for row, token in zip(rows, tokens_B.tolist(), strict=True):
            row.push(token, limit)
    for index, row in enumerate(rows):
        text = row.new_text()
        if text and on_text:
            on_text(index, text)
    return all(row.reason for row in rows)


def check_prompts(
    config: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """The prompts' ids, and how many tokens may be generated: learned positions end somewhere.

    Raises:
      UserError: an empty prompt, or one that leaves no room in the model's context.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens} must be at least 1.")
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    for index, row in enumerate(ids):
        if not row:
            raise UserError(f"prompt {index + 1} is empty: give at least one character.")
    positions = config.positions
    if positions.kind != "learned":
        return ids, max_new_tokens
    longest = max(len(row) for row in ids)
    if longest >= positions.max_length:
        raise UserError(
            f"The prompt has {longest} tokens and the model {positions.max_length} learned "
            "positions: shorten the prompt."
        )
    return ids, min(max_new_tokens, positions.max_length - longest)


def rounded(length: int) -> int:
    """The next multiple of a power of two that grows with the length."""
    step = max(16, 1 << max((length - 1).bit_length() - 2, 0))
    return -(-length // step) * step
