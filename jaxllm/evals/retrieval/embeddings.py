"""Texts ranked by an encoder's embeddings: the mean of the last hidden states, of length one.

That mean is what dense retrieval uses where nothing was trained for it (Reimers and Gurevych 2019,
https://arxiv.org/abs/1908.10084); a head that the model has is left aside. The product of two
embeddings is the cosine of their angle, and the search is exact.

Shapes: B batch, T tokens, D width, N texts, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.heads import POOLINGS
from jaxllm.models.load import Model, find_model
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind

LENGTHS = (32, 64, 128, 256, 512)  # to which texts are padded: each is a program
AT_ONCE = 2**24  # products in memory


class Embedder:
    """Embeds texts with a model; of an encoder-decoder with its encoder."""

    def __init__(self, model: Model, tokenizer: Tokenizer, batch_size: int, max_length: int):
        """`batch_size` rows of `max_length` tokens go through the model at once, or as many tokens
        in shorter rows; a longer text loses its end."""
        self._model, self._tokenizer, self._most = model, tokenizer, max_length
        lengths = [*(n for n in LENGTHS if n < max_length), max_length]
        self._shapes = [(max(1, batch_size * max_length // n), n) for n in lengths]

    @classmethod
    def open(cls, name: str, batch_size: int, warn: Callable[[str], None]) -> Embedder:
        """That of a run directory, a checkpoint or a Hugging Face folder.

        Raises:
          UserError: there is no such model.
        """
        try:
            saved = find_model(name)
        except UserError as error:
            raise UserError(f"--retriever={name} is neither bm25 nor a model: {error}") from error
        positions = saved.config.positions
        ends = positions.max_length if positions.kind == "learned" else LENGTHS[-1]
        return cls(
            saved.load(make_compute(), warn), saved.load_tokenizer(), batch_size,
            min(ends, LENGTHS[-1]),
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The embedding of each text, float32 [N, D], of length one.

        Raises:
          UserError: an embedding is not a number.
        """
        rows = [self._ids(ids) for ids in self._tokenizer.encode_batch(list(texts))]
        found, shorter = np.zeros((len(rows), self._model.config.width), np.float32), 0
        for size, length in self._shapes:  # whole batches, so that each is one program
            members = [i for i, row in enumerate(rows) if shorter < len(row) <= length]
            for first in range(0, len(members), size):
                chunk = members[first : first + size]
                ids, lengths = np.zeros((size, length), np.int32), np.ones(size, np.int32)
                for place, member in enumerate(chunk):
                    ids[place, : len(rows[member])] = rows[member]
                    lengths[place] = len(rows[member])
                means = _means(self._model.structure, self._model.params, ids, lengths)
                found[chunk] = np.asarray(means)[: len(chunk)]
            shorter = length
        if not np.isfinite(found).all():
            raise UserError(
                "--retriever: the model's embeddings are not numbers (NaN or infinite): one of its "
                "parameters is not finite, or its activations overflow. Name another model, or "
                "bm25."
            )
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def _ids(self, ids: list[int]) -> list[int]:
        """A text's ids with the special tokens of the tokenizer's family."""
        room = self._most - len(self._tokenizer.with_special_tokens([])[0])
        return self._tokenizer.with_special_tokens(ids[:room])[0] or [0]


class Embedded:
    """An index of embeddings, in memory."""

    def __init__(self, texts: Sequence[str], embedder: Embedder):
        self._embedder = embedder
        self._texts_ND = embedder.embed(texts)

    def rank(self, queries: Sequence[str], count: int) -> list[list[tuple[int, float]]]:
        """See Index; scores are cosines."""
        queries_QD = self._embedder.embed(queries)
        count = min(count, len(self._texts_ND))
        block = max(1, AT_ONCE // max(1, len(self._texts_ND)))
        found = []
        for first in range(0, len(queries_QD), block):
            for scores_N in queries_QD[first : first + block] @ self._texts_ND.T:
                places = np.argpartition(-scores_N, count - 1)[:count]
                places = places[np.lexsort((places, -scores_N[places]))]
                found.append(list(zip(places.tolist(), scores_N[places].tolist(), strict=True)))
        return found


@partial(jax.jit, static_argnums=0)
def _means(structure, params, ids_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """The mean of the last hidden states of each row's first `lengths_B` tokens, float32 [B, D]."""
    model = bind(structure, params)
    places_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1], dtype=jnp.int32), ids_BT.shape)
    segments_BT = (places_BT < lengths_B[:, None]).astype(jnp.int32)
    inputs = Inputs(ids_BT, places_BT, segments_BT)
    both = model.encoder is not None and model.decoder is not None
    hidden_BTD = model.encode(inputs).states_BSD if both else model.hidden(inputs)
    return POOLINGS["mean"](hidden_BTD, segments_BT != 0).astype(jnp.float32)
