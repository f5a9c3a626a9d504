"""Whole texts through a model: scores of classes, rewards, embeddings, token probabilities, masks.

Texts are padded and run in batches of a few sizes, so that only a few programs are compiled.

Shapes: B texts of a batch, T tokens, M masks, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.generate.steps import encode, rounded, start_id
from jaxllm.models.load import Model
from jaxllm.models.tower import Inputs
from jaxllm.nn.module import bind

BATCH = 32  # texts that go through the model at once

Wrapped = tuple[list[int], list[int]]  # a text's ids with special tokens, and their types


def text_outputs(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """What the model's head makes of each text, float32.

    [C] for a classifier of texts, [T, C] for one of tokens (special tokens included), a scalar for
    a reward, [D] for an embedding.

    Raises:
      UserError: a text is longer than the model's positions, or the lists differ in length.
    """
    rows = _wrapped(model, tokenizer, texts, pairs)
    start = None
    if model.config.architecture == "encoder_decoder":
        start = jnp.int32(start_id(model.config, tokenizer))
    each_token = model.config.head.pooling == "none"
    results: list[np.ndarray] = []
    for count, ids_BT, types_BT, lengths_B in _batches(rows):
        outputs = np.asarray(
            _outputs(model.structure, model.params, ids_BT, types_BT, lengths_B, start)
        )[:count]
        if each_token:
            results += [row[:length] for row, length in zip(outputs, lengths_B, strict=False)]
        else:
            results += list(outputs)
    return results


def log_probabilities(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
    """Log-probability in nats of every token of each text given those before it, float32 [T - 1].

    Raises:
      UserError: a text of fewer than two tokens, or of more than the model has positions.
    """
    ids = [encode(tokenizer, text, f"text {i + 1}") for i, text in enumerate(texts)]
    for row, text in zip(ids, texts, strict=True):
        if len(row) < 2:
            raise UserError(f"{text!r} has {len(row)} tokens: a score needs two at least.")
    _check_length(model, ids)
    results: list[np.ndarray] = []
    for count, ids_BT, _, lengths_B in _batches([(row, [0] * len(row)) for row in ids]):
        scores_BT = np.asarray(_score(model.structure, model.params, ids_BT))[:count]
        results += [row[: n - 1] for row, n in zip(scores_BT, lengths_B, strict=False)]
    return results


class Filled(NamedTuple):
    """A token for a mask, with its probability there."""

    text: str
    id: int
    probability: float


def fill_masks(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], top: int
) -> list[list[list[Filled]]]:
    """For every text and each of its masks the `top` likeliest tokens, best first.

    Raises:
      UserError: a text without a mask, or one that is longer than the model's positions.
    """
    if top < 1:
        raise UserError(f"top={top} must be at least 1.")
    if tokenizer.mask_id is None:
        raise UserError("The tokenizer has no mask token, so there is nothing to fill in.")
    mask = tokenizer.token_text(tokenizer.mask_id)
    rows = _wrapped(model, tokenizer, texts, None, mask)
    for (ids, _), text in zip(rows, texts, strict=True):
        if tokenizer.mask_id not in ids:
            raise UserError(f"{text!r} has no mask: write {mask} where a token is to be filled in.")
    vocabulary = min(tokenizer.vocab_size, model.config.vocab_size)
    count = min(top, vocabulary)
    results: list[list[list[Filled]]] = []
    for size, ids_BT, types_BT, lengths_B in _batches(rows):
        masks = [np.flatnonzero(row == tokenizer.mask_id) for row in ids_BT]
        places_BM = np.zeros((len(masks), rounded(max(map(len, masks)))), np.int32)
        for row, found in zip(places_BM, masks, strict=True):
            row[: len(found)] = found
        shares, tokens = map(np.asarray, _fill(
            model.structure, vocabulary, count, model.params, ids_BT, types_BT, lengths_B,
            places_BM,
        ))
        for row, found in enumerate(masks[:size]):
            results.append([
                [Filled(tokenizer.token_text(token), token, share) for token, share in
                 zip(tokens[row, mask].tolist(), shares[row, mask].tolist(), strict=True)]
                for mask in range(len(found))
            ])
    return results


def _wrapped(
    model: Model, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None,
    mask: str = "",
) -> list[Wrapped]:
    """Every text, or pair of texts, as the tokenizer's family wraps it.

    `mask` in a text stands for the mask token.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"There are {len(texts)} texts and {len(pairs)} pairs: give one for each.")
    ids = [_encoded(tokenizer, text, mask, f"text {i + 1}") for i, text in enumerate(texts)]
    seconds = [None] * len(ids) if pairs is None else [
        encode(tokenizer, text, f"pair {i + 1}") for i, text in enumerate(pairs)
    ]
    rows = [
        tokenizer.with_special_tokens(row, second)
        for row, second in zip(ids, seconds, strict=True)
    ]
    for index, (row, _) in enumerate(rows):
        if not row:
            raise UserError(f"text {index + 1} is empty: give at least one character.")
    _check_length(model, [row for row, _ in rows])
    if model.config.embedding.types < 2:
        return [(row, [0] * len(row)) for row, _ in rows]
    return rows


def _encoded(tokenizer: Tokenizer, text: str, mask: str, name: str) -> list[int]:
    """The ids of a text; tokenizers trained here never read a special token out of one."""
    if not mask or tokenizer.kind == "huggingface":
        return encode(tokenizer, text, name)
    first, *rest = (encode(tokenizer, part, name) for part in text.split(mask))
    return first + [token for part in rest for token in (tokenizer.mask_id, *part)]


def _check_length(model: Model, rows: Sequence[Sequence[int]]) -> None:
    longest = max((len(row) for row in rows), default=0)
    model.config.check_length(longest, "tokens of the longest text")


def _batches(
    rows: Sequence[Wrapped],
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Count of texts, their ids and types [B, T], and lengths [B]; B a power of two, or BATCH."""
    for first in range(0, len(rows), BATCH):
        chunk = rows[first : first + BATCH]
        size = min(BATCH, 1 << (len(chunk) - 1).bit_length())
        ids_BT = np.zeros((size, rounded(max(len(ids) for ids, _ in chunk))), np.int32)
        types_BT, lengths_B = np.zeros_like(ids_BT), np.ones(size, np.int32)
        for index, (ids, types) in enumerate(chunk):
            ids_BT[index, : len(ids)], types_BT[index, : len(ids)] = ids, types
            lengths_B[index] = len(ids)
        yield len(chunk), ids_BT, types_BT, lengths_B


@partial(jax.jit, static_argnums=0)
def _outputs(structure, params, ids_BT, types_BT, lengths_B, start) -> jax.Array:
    """The head's outputs; an encoder-decoder's decoder reads the text too, after `start`."""
    row_BT = _rows(ids_BT)
    segments = (row_BT < lengths_B[:, None]).astype(jnp.int32)
    inputs = Inputs(ids_BT, row_BT, segments, types=types_BT)
    if start is not None:
        shifted = jnp.concatenate([jnp.full_like(ids_BT[:, :1], start), ids_BT[:, :-1]], axis=1)
        inputs = Inputs(shifted, row_BT, segments, encoder=inputs)
    return bind(structure, params).text_outputs(inputs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fill(structure, vocabulary, count, params, ids_BT, types_BT, lengths_B, places_BM):
    """The `count` largest probabilities [B, M, count] at each place, and their tokens."""
    model, row_BT = bind(structure, params), _rows(ids_BT)
    segments = (row_BT < lengths_B[:, None]).astype(jnp.int32)
    hidden = model.hidden(Inputs(ids_BT, row_BT, segments, types=types_BT))
    hidden = jnp.take_along_axis(hidden, places_BM[..., None], axis=1)
    logits = model.logits(hidden)[..., :vocabulary]
    return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)


@partial(jax.jit, static_argnums=0)
def _score(structure, params, tokens_BT: jax.Array) -> jax.Array:
    """Log-probabilities [B, T - 1] of all tokens but the first."""
    model = bind(structure, params)
    logits = model.logits(model.hidden(Inputs(tokens_BT, _rows(tokens_BT))))
    log_probabilities = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    return jnp.take_along_axis(log_probabilities, tokens_BT[:, 1:, None], axis=-1)[..., 0]


def _rows(ids_BT: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(ids_BT.shape[1], dtype=jnp.int32), ids_BT.shape)
