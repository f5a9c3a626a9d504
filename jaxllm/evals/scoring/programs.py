"""The compiled programs: log-probabilities of given tokens after given places.

Scores of the vocabulary are made only where something is looked up, a few hundred places at a
time: for a question with a short answer that is a small part of a row.

Shapes: B rows, T tokens, E tokens of an encoder, G stems, S cache slots, N parts that the batch is
spread over, P places looked up of a part, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.attention import Cache
from jaxllm.nn.module import bind

PLACES = 512  # whose scores [places, V] are in memory at once


class Lookup(NamedTuple):
    """What is looked up: `index_NP` counts places through the rows of a part, [B / N, T] flat."""

    index_NP: jax.Array
    tokens_NP: jax.Array


@partial(jax.jit, static_argnums=0)
def rows(structure, params, ids_BT: jax.Array, lookup: Lookup) -> tuple[jax.Array, jax.Array]:
    """(log-probability float32, likeliest or not) [N, P] in rows of a decoder."""
    model = bind(structure, params)
    return _looked_up(model, model.hidden(Inputs(ids_BT, _places(ids_BT))), lookup)


@partial(jax.jit, static_argnums=0)
def pairs(structure, params, context_BE, lengths_B, ids_BT, lookup: Lookup):
    """As `rows`, of an encoder-decoder whose encoder reads the first `lengths_B` of the context."""
    model, places_BE = bind(structure, params), _places(context_BE)
    segments = (places_BE < lengths_B[:, None]).astype(jnp.int32)
    encoder = Inputs(context_BE, places_BE, segments)
    ours = Inputs(ids_BT, _places(ids_BT), jnp.ones_like(ids_BT), encoder=encoder)
    return _looked_up(model, model.hidden(ours), lookup)


@partial(jax.jit, static_argnums=(0, 1))
def stems(structure, slots: int, params, ids_GT: jax.Array) -> Cache:
    """A cache of `slots` slots with the stems in it."""
    model = bind(structure, params)
    cache = model.decoder.empty_cache(ids_GT.shape[0], slots)
    return model.decode(Inputs(ids_GT, _places(ids_GT)), cache)[1]


@partial(jax.jit, static_argnums=0)
def tails(structure, params, cache: Cache, stem_B, starts_B, ids_BT, lookup: Lookup):
    """As `rows`, of what follows each row's stem, from position `starts_B` on.

    Slots after a stem's end hold its padding; the tail overwrites them before it sees them.
    """
    model = bind(structure, params)
    own = Cache(*(side[:, stem_B] for side in cache))
    hidden_BTD, _ = model.decode(Inputs(ids_BT, starts_B[:, None] + _places(ids_BT)), own)
    return _looked_up(model, hidden_BTD, lookup)


def _looked_up(
    model: Transformer, hidden_BTD: jax.Array, lookup: Lookup
) -> tuple[jax.Array, jax.Array]:
    N, P = lookup.index_NP.shape
    flat_NXD = hidden_BTD.reshape(N, -1, hidden_BTD.shape[-1])
    picked_NPD = jnp.take_along_axis(flat_NXD, lookup.index_NP[..., None], axis=1)

    def some(picked_NCD: jax.Array, tokens_NC: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_NCV = model.logits(picked_NCD)
        chosen_NC = jnp.take_along_axis(logits_NCV, tokens_NC[..., None], axis=-1)[..., 0]
        log_NC = chosen_NC - jax.nn.logsumexp(logits_NCV, axis=-1)
        return log_NC, jnp.argmax(logits_NCV, axis=-1) == tokens_NC

    everywhere = model.compute.sharding.replicated()  # for the host that reads it
    if P <= PLACES:
        return jax.lax.with_sharding_constraint(some(picked_NPD, lookup.tokens_NP), everywhere)
    parts = jax.tree.map(
        lambda x: x.reshape(N, P // PLACES, PLACES, *x.shape[2:]).swapaxes(0, 1),
        (picked_NPD, lookup.tokens_NP),
    )
    found = jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(N, P), jax.lax.map(lambda part: some(*part), parts)
    )
    return jax.lax.with_sharding_constraint(found, everywhere)


def _places(ids_BT: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(ids_BT.shape[1], dtype=jnp.int32), ids_BT.shape)
