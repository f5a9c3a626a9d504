"""The loss over blocks of the vocabulary, for an output projection that FSDP cuts.

The blocks are gathered one after the other, each while the one before is used. A first pass finds
log Z of every token. A second forms each block's logits again, turns them into the gradient of the
hidden states and of the block, and scatters the latter at once. So a device holds two blocks of
the projection and one of its gradient, never the whole; the price is one more product of hidden
states and projection, 1 to 2 % of a step. Within a block the tokens are cut into chunks, which
bounds the logits. (After Wijmans et al. 2024, cut cross-entropy; here over the devices' shards.)

Shapes: P devices that share the batch, n chunks of C tokens of each, D width, R devices along the
vocabulary, b blocks of v columns of each.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.nn.compute import Compute

# Per device and in float32, when the sizes are not given: the logits of a chunk and a block, and
# the gradient of a block. Large enough that products are bound by arithmetic.
LOGITS_BYTES = 2**29
BLOCK_BYTES = 2**28
LANES = 128  # columns of a block come in multiples of a TPU's lanes


class _Tokens(NamedTuple):
    """What a token brings, cut into chunks."""

    x: jax.Array  # [n, P, C, D]
    targets: jax.Array  # [n, P, C]
    weights: jax.Array  # [n, P, C]


class _Seen(NamedTuple):
    """What is known of each token after some blocks, float32 [P, C] in a chunk."""

    lse: jax.Array  # log of the sum of exponentials
    target: jax.Array  # the target's logit
    total: jax.Array  # sum of the logits
    best: jax.Array  # the largest logit
    guess: jax.Array  # whose it is, int32


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def blocked_sums(options, compute, hidden_BTD, kernel_DV, bias_V, targets_BT, weights_BT):
    """The sums of loss, nll and right guesses; differentiable in hidden, kernel and bias."""
    blocks = _Blocks(options, compute, hidden_BTD, kernel_DV, bias_V)
    tokens = blocks.tokens(hidden_BTD, targets_BT, weights_BT)
    return blocks.sums(tokens, blocks.seen(tokens))


def _forward(options, compute, hidden_BTD, kernel_DV, bias_V, targets_BT, weights_BT):
    blocks = _Blocks(options, compute, hidden_BTD, kernel_DV, bias_V)
    tokens = blocks.tokens(hidden_BTD, targets_BT, weights_BT)
    seen = blocks.seen(tokens)
    return blocks.sums(tokens, seen), blocks.gradients(tokens, seen, hidden_BTD)


def _backward(options, compute, residuals, cotangents):
    scale = cotangents[0]  # the other sums are for reading: they carry no gradient
    gradients = jax.tree.map(lambda g: g * scale.astype(g.dtype), residuals)
    return (*gradients, None, None)


blocked_sums.defvjp(_forward, _backward)


class _Blocks:
    """The projection cut into blocks, and the two passes over them."""

    def __init__(self, options, compute: Compute, hidden_BTD, kernel_DV, bias_V):
        self.options, self.compute = options, compute
        self.parts, self.shards = (compute.sharding.parts(a) for a in ("tokens", "act_vocab"))
        D, self.vocabulary = kernel_DV.shape
        per_shard = self.vocabulary // self.shards
        columns = min(
            options.block or max(BLOCK_BYTES // (4 * D) // LANES, 1) * LANES, per_shard
        )
        self.count = -(-per_shard // columns)
        # as even as lanes allow: the last block is padded, and padding is work
        self.columns = -(-per_shard // self.count)
        if self.count > 1 and not options.block:
            self.columns = -(-self.columns // LANES) * LANES
        self.per_shard, self.dtype = per_shard, kernel_DV.dtype
        self.kernel_bDRv = self._cut(kernel_DV.astype(hidden_BTD.dtype), "embed")
        self.bias_bRv = None if bias_V is None else self._cut(bias_V)
        # Whose each column is; padding is nobody's.
        ids = jnp.arange(self.shards)[:, None] * per_shard + jnp.arange(per_shard)
        self.ids_bRv = self._cut(ids.reshape(-1), fill=-1)

    def tokens(self, hidden_BTD, targets_BT, weights_BT) -> _Tokens:
        """The tokens of each device cut into chunks, the last filled up with weightless ones."""
        B, T, _ = hidden_BTD.shape
        mine = B * T // self.parts
        size = self.options.chunk * mine // T or LOGITS_BYTES // (4 * self.columns)
        chunks = -(-mine // min(max(size, 1), mine))
        size = -(-mine // chunks)

        def cut(x):
            x = self.compute.sharding.by_device(x)
            x = jnp.pad(x, [(0, 0), (0, chunks * size - mine), *[(0, 0)] * (x.ndim - 2)])
            x = x.reshape(self.parts, chunks, size, *x.shape[2:]).swapaxes(0, 1)
            return self.compute.constrain(x, None, "tokens", *(None,) * (x.ndim - 2))

        return _Tokens(cut(hidden_BTD), cut(targets_BT), cut(weights_BT))

    def seen(self, tokens: _Tokens) -> _Seen:
        """The first pass: what all blocks together say of each token, [n, P, C] each."""
        shape = tokens.targets.shape
        low = jnp.full(shape, -jnp.inf, jnp.float32)
        zeros = jnp.zeros(shape, jnp.float32)
        start = _Seen(low, zeros, zeros, low, jnp.zeros(shape, jnp.int32))
        start = jax.tree.map(lambda x: self.compute.constrain(x, None, "tokens", None), start)

        def block(seen, weights, ids_Rv, bias_Rv):
            def chunk(_, scanned):
                seen, token = scanned
                logits, _ = self._logits(token.x, weights, ids_Rv, bias_Rv)
                return None, self._joined(seen, logits, token.targets, ids_Rv)

            return jax.lax.scan(chunk, None, (seen, tokens))[1], None

        return self._over_blocks(block, start)[0]

    def sums(self, tokens: _Tokens, seen: _Seen) -> tuple[jax.Array, ...]:
        """The sums of loss, nll and right guesses over all tokens."""
        options = self.options
        nll = seen.lse - seen.target
        loss = nll
        if options.label_smoothing:
            uniform = seen.lse - seen.total / self.vocabulary
            loss = loss + options.label_smoothing * (uniform - nll)
        if options.z_loss:
            loss = loss + options.z_loss * seen.lse**2
        correct = (seen.guess == tokens.targets).astype(nll.dtype)
        correct = correct if options.accuracy else jnp.zeros_like(nll)
        # where, not a product: padding may hold any value, and 0 * inf is not 0
        there = tokens.weights != 0
        return tuple(
            jnp.sum(jnp.where(there, each * tokens.weights, 0)) for each in (loss, nll, correct)
        )

    def gradients(self, tokens: _Tokens, seen: _Seen, hidden_BTD) -> tuple:
        """The second pass: the gradients of hidden states, kernel and bias."""
        D = tokens.x.shape[-1]
        compute, dtype = self.compute, tokens.x.dtype

        def block(dx, weights, ids_Rv, bias_Rv):
            def chunk(carry, at):
                dx, dweights, dbias = carry
                token, known = jax.tree.map(lambda a: a[at], (tokens, seen))
                logits, slope = self._logits(token.x, weights, ids_Rv, bias_Rv)
                g = self._slopes(logits, token, known, ids_Rv) * slope
                if dbias is not None:
                    dbias = dbias + g.sum(1)
                g = g.astype(dtype)
                added = jnp.einsum(
                    "pcrv,drv->pcd", g, weights, preferred_element_type=jnp.float32
                )
                dx = dx.at[at].add(compute.constrain(added, "tokens", None, None))
                dweights = dweights + jnp.einsum(
                    "pcd,pcrv->pdrv", token.x, g, preferred_element_type=jnp.float32
                )
                dweights = compute.constrain(dweights, "tokens", None, "act_vocab", None)
                return (dx, dweights, dbias), None

            shape = (self.parts, D, self.shards, self.columns)
            start = compute.constrain(
                jnp.zeros(shape, jnp.float32), "tokens", None, "act_vocab", None
            )
            dbias = None if bias_Rv is None else jnp.zeros((self.parts, *bias_Rv.shape))
            carry, _ = jax.lax.scan(chunk, (dx, start, dbias), jnp.arange(tokens.x.shape[0]))
            dx, dweights, dbias = carry
            # The devices' parts are added up here, once a block, each keeping what is its own.
            dweights = compute.sharding.summed(
                lambda mine_PDRv: mine_PDRv[0], (dweights, ("tokens", None, "act_vocab", None)),
                axes=("embed", "act_vocab", None),
            )
            return dx, (dweights.astype(self.dtype), None if dbias is None else dbias.sum(0))

        zeros = compute.constrain(
            jnp.zeros(tokens.x.shape, jnp.float32), None, "tokens", None, None
        )
        dx, (dweights, dbias) = self._over_blocks(block, zeros)
        B, T, _ = hidden_BTD.shape
        dx = dx.astype(dtype).swapaxes(0, 1).reshape(self.parts, -1, D)
        dx = compute.sharding.by_row(dx[:, : B * T // self.parts], B)
        dkernel = compute.constrain(self._joined_up(dweights), "embed", "vocab")
        if dbias is not None:
            dbias = self._joined_up(dbias).astype(jnp.float32)
        return dx, dkernel, dbias

    def _over_blocks(self, block, carry):
        """`carry, y = block(carry, weights, ids, bias)` over the blocks, one gathered ahead."""
        def gathered(index):
            weights = jax.lax.dynamic_index_in_dim(self.kernel_bDRv, index, keepdims=False)
            return self.compute.constrain(weights, None, "act_vocab", None)

        def body(carry, scanned):
            carry, weights = carry
            index, ids, bias = scanned
            after = gathered(jnp.minimum(index + 1, self.count - 1))
            carry, y = block(carry, weights, ids, bias)
            return (carry, after), y

        scanned = (jnp.arange(self.count), self.ids_bRv, self.bias_bRv)
        (carry, _), ys = jax.lax.scan(body, (carry, gathered(0)), scanned)
        return carry, ys

    def _logits(self, x_PCD, weights_DRv, ids_Rv, bias_Rv):
        """Float32 logits [P, C, R, v], and their slope with respect to those before the cap."""
        logits = jnp.einsum(
            "pcd,drv->pcrv", x_PCD, weights_DRv, preferred_element_type=jnp.float32
        )
        logits = self.compute.constrain(logits, "tokens", None, "act_vocab", None)
        if bias_Rv is not None:
            logits = logits + bias_Rv.astype(jnp.float32)
        slope = 1.0
        if cap := self.options.logit_softcap:
            bounded = jnp.tanh(logits / cap)
            logits, slope = cap * bounded, 1.0 - bounded**2
        return jnp.where(ids_Rv >= 0, logits, -jnp.inf), slope

    def _joined(self, seen: _Seen, logits, targets_PC, ids_Rv) -> _Seen:
        over = (-2, -1)
        lse = jnp.logaddexp(seen.lse, jax.nn.logsumexp(logits, axis=over))
        hit = ids_Rv == targets_PC[..., None, None]
        target = seen.target + jnp.sum(jnp.where(hit, logits, 0), axis=over)
        total, best, guess = seen.total, seen.best, seen.guess
        if self.options.label_smoothing:
            total = total + jnp.sum(jnp.where(ids_Rv >= 0, logits, 0), axis=over)
        if self.options.accuracy:
            largest = logits.max(over)
            # of several largest the first, as argmax has it
            whose = jnp.where(logits == largest[..., None, None], ids_Rv, self.vocabulary)
            guess = jnp.where(largest > best, whose.min(over), guess)
            best = jnp.maximum(best, largest)
        return _Seen(lse, target, total, best, guess)

    def _slopes(self, logits, token: _Tokens, seen: _Seen, ids_Rv):
        """d loss / d logits of a chunk and a block, float32 [P, C, R, v]."""
        options, lse = self.options, seen.lse[..., None, None]
        pull = jnp.exp(logits - lse)
        if options.z_loss:
            pull = pull * (1.0 + 2.0 * options.z_loss * lse)
        smoothing = options.label_smoothing
        wanted = jnp.where(ids_Rv == token.targets[..., None, None], 1.0 - smoothing, 0.0)
        if smoothing:
            wanted = wanted + jnp.where(ids_Rv >= 0, smoothing / self.vocabulary, 0.0)
        weights = token.weights[..., None, None]
        return jnp.where(weights != 0, (pull - wanted) * weights, 0)

    def _cut(self, x, *leading: str, fill: int = 0):
        """[…, V] as blocks [b, …, R, v], each device along the vocabulary keeping its columns."""
        kept = x.shape[:-1]
        x = x.reshape(*kept, self.shards, self.per_shard)
        padding = self.count * self.columns - self.per_shard
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, padding)], constant_values=fill)
        x = jnp.moveaxis(x.reshape(*kept, self.shards, self.count, self.columns), -2, 0)
        return self.compute.constrain(x, None, *leading, "act_vocab", None)

    def _joined_up(self, x_bRv):
        """The blocks of `_cut` put together again, […, V]."""
        x = jnp.moveaxis(x_bRv, 0, -2)
        x = x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))[..., : self.per_shard]
        return x.reshape(*x.shape[:-2], self.vocabulary)
