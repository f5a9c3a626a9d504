"""Beam search: the likeliest continuations kept side by side, as one jitted program.

The scoring and the ways to end are those of transformers' `generate`, so that a model gives the
same text here as there. All beams of a prompt share its encoder output; a step reorders the rows
of the key/value cache.

Shapes: B batch, K beams, C candidates of a step, N new tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.generate.steps import Prompts, State, TokenRules, advance, begin, rounded, slots_for
from jaxllm.models.load import Model
from jaxllm.nn.attention import Cache
from jaxllm.nn.module import bind

_OUT = -1.0e9  # out of the running, and still ordered


@dataclass(frozen=True)
class BeamSearch:
    """How continuations are compared and when the search ends."""

    beams: int = 4
    length_penalty: float = 1.0  # scores are log-probability / length ** this; above 0: longer
    # True: as soon as there are `beams` finished texts. False: also when the best running one
    # would lose if it ended now. "never": only when none can win any more.
    early_stopping: bool | str = False

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        if self.beams < 1:
            raise UserError(f"beams={self.beams} must be at least 1.")
        if self.early_stopping not in (True, False, "never"):
            raise UserError(
                f"early_stopping={self.early_stopping!r} must be True, False or 'never'."
            )


class _Search(NamedTuple):
    count: jax.Array  # new tokens so far
    state: State  # of B · K rows
    logits_BKV: jax.Array
    running_BKN: jax.Array
    running_scores_BK: jax.Array
    done_BKN: jax.Array
    done_scores_BK: jax.Array
    done_counts_BK: jax.Array
    finished_BK: jax.Array  # bool: there is a text in this place of `done`
    open_B: jax.Array  # bool: a running beam may still beat a finished one
    going: jax.Array  # bool: some candidate goes on


def search(
    model: Model, prompts: Prompts, how: BeamSearch, rules: TokenRules, vocabulary: int, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best continuation of each prompt [B, N], and how many of its tokens count [B]."""
    steps = rounded(limit)
    static = (model.structure, how, rules, vocabulary)
    slots = slots_for(model.config, prompts, steps)
    tokens, counts = _search(static, slots, steps, model.params, prompts, jnp.int32(limit))
    return np.asarray(tokens), np.asarray(counts)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _search(static, slots, steps, params, prompts, limit):
    structure, how, rules, vocabulary = static
    model, K = bind(structure, params), how.beams
    logits_BV, positions_B, state = begin(model, prompts, slots)
    B, V = logits_BV.shape
    positions = jnp.repeat(positions_B, K)

    def body(now: _Search) -> _Search:
        log_p_BKV = jax.nn.log_softmax(now.logits_BKV, axis=-1)[..., :vocabulary]
        log_p_BKV = rules.apply(log_p_BKV, now.count, limit)
        chosen = _choose(log_p_BKV, now, how, rules, limit)
        rows = (jnp.arange(B)[:, None] * K + chosen.parents_BK).reshape(-1)
        state = now.state._replace(
            cache=Cache(*(side[:, rows] for side in now.state.cache))
        )
        last = _at(chosen.running_BKN, now.count).reshape(-1)
        logits, state = advance(model, last, positions + now.count, state)
        now = _finish(now, chosen, how, limit)
        return now._replace(state=state, logits_BKV=logits.reshape(B, K, V))

    def going(now: _Search) -> jax.Array:
        full = jnp.all(now.finished_BK) if how.early_stopping is True else False
        return (now.count < limit) & jnp.any(now.open_B) & ~jnp.asarray(full) & now.going

    empty_BKN = jnp.zeros((B, K, steps), jnp.int32)
    out_BK = jnp.full((B, K), _OUT, jnp.float32)
    first = _Search(
        jnp.int32(0), _repeated(state, K), jnp.repeat(logits_BV[:, None], K, axis=1), empty_BKN,
        out_BK.at[:, 0].set(0.0),  # all beams are one text at first: only one is looked at
        empty_BKN, out_BK, jnp.zeros((B, K), jnp.int32), jnp.zeros((B, K), bool),
        jnp.ones(B, bool), jnp.bool_(True),
    )
    last = jax.lax.while_loop(going, body, first)
    return last.done_BKN[:, 0], last.done_counts_BK[:, 0]


class _Chosen(NamedTuple):
    """The best continuations of a step, and the K of them that run on."""

    texts_BCN: jax.Array
    scores_BC: jax.Array
    ended_BC: jax.Array  # bool
    running_BKN: jax.Array
    running_scores_BK: jax.Array
    parents_BK: jax.Array  # the beam that each goes on from


def _choose(log_p_BKV, now: _Search, how: BeamSearch, rules: TokenRules, limit) -> _Chosen:
    B, K, V = log_p_BKV.shape
    total = (log_p_BKV + now.running_scores_BK[..., None]).reshape(B, K * V)
    # so many that K of them run on even if each beam ends with each end-of-text token
    candidates = min(max(2, 1 + len(rules.eos_ids)) * K, K * V)
    scores_BC, flat_BC = jax.lax.top_k(total, candidates)
    beams_BC, tokens_BC = flat_BC // V, flat_BC % V
    texts_BCN = _pick(now.running_BKN, beams_BC)
    here = jnp.arange(texts_BCN.shape[-1]) == now.count
    texts_BCN = jnp.where(here, tokens_BC[..., None], texts_BCN)
    ended_BC = jnp.isin(tokens_BC, jnp.array(rules.eos_ids, jnp.int32)) | (now.count + 1 >= limit)
    running_scores_BK, best_BK = jax.lax.top_k(scores_BC + ended_BC * _OUT, K)
    return _Chosen(
        texts_BCN, scores_BC, ended_BC, _pick(texts_BCN, best_BK), running_scores_BK,
        _pick(beams_BC, best_BK),
    )


def _finish(now: _Search, chosen: _Chosen, how: BeamSearch, limit) -> _Search:
    """The search after this step, its finished texts the best of the old and the new ones."""
    K, candidates = how.beams, chosen.scores_BC.shape[1]
    count = now.count + 1
    # candidates after the first K only stand in for beams that ended
    just_BC = chosen.ended_BC & (jnp.arange(candidates) < K)
    allowed_B = now.open_B
    if how.early_stopping is True:
        allowed_B = allowed_B & ~jnp.all(now.finished_BK, axis=1)
    scores_BC = chosen.scores_BC / count.astype(jnp.float32) ** how.length_penalty
    scores_BC = scores_BC + ~allowed_B[:, None] * _OUT + ~just_BC * _OUT

    scores_BK, best_BK = jax.lax.top_k(
        jnp.concatenate([now.done_scores_BK, scores_BC], axis=1), K
    )

    def merged(old, new):
        return _pick(jnp.concatenate([old, new], axis=1), best_BK)

    finished_BK = merged(now.finished_BK, just_BC)
    longest = limit if how.early_stopping == "never" and how.length_penalty > 0 else count
    hope_B = chosen.running_scores_BK[:, 0] / longest.astype(jnp.float32) ** how.length_penalty
    worst_BK = jnp.where(finished_BK, jnp.min(scores_BK, axis=1, keepdims=True), _OUT)
    return now._replace(
        count=count, running_BKN=chosen.running_BKN,
        running_scores_BK=chosen.running_scores_BK,
        done_BKN=merged(now.done_BKN, chosen.texts_BCN), done_scores_BK=scores_BK,
        done_counts_BK=merged(now.done_counts_BK, jnp.full_like(just_BC, count, jnp.int32)),
        finished_BK=finished_BK,
        open_B=now.open_B & jnp.any(hope_B[:, None] > worst_BK, axis=1),
        going=~jnp.all(chosen.ended_BC),
    )


def _repeated(state: State, beams: int) -> State:
    """The state of every prompt for each of its beams."""
    def rows(tree: Any, axis: int) -> Any:
        return jax.tree.map(lambda a: jnp.repeat(a, beams, axis=axis), tree)

    return State(rows(state.cache, 1), rows(state.memory, 0), rows(state.memory_cache, 1))


def _pick(values: jax.Array, places_BK: jax.Array) -> jax.Array:
    """values[b, places[b, k], …]."""
    return jax.vmap(lambda row, places: row[places])(values, places_BK)


def _at(texts_BKN: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(texts_BKN, index, axis=2, keepdims=False)
