"""Cross-entropy over the vocabulary without the [batch, length, vocabulary] logits.

The sequence is cut into chunks. For each chunk the logits are formed, reduced to the loss, and,
when a gradient is wanted, turned at once into the gradients of the hidden states and of the
output projection; nothing of vocabulary size but that gradient survives a chunk, and nothing is
computed twice.

Shapes: B batch, T tokens, C tokens of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.nn.compute import Compute

# Float32 logits per device and chunk when the size is not given. A CPU wants them in its cache;
# an accelerator wants enough tokens per chunk to be bound by the product, not by reading weights.
CHUNK_BYTES = {"cpu": 16 * 2**20, "accelerator": 2**30}


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What is added to the negative log-likelihood, and how it is computed."""

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    logit_softcap: float = 0.0
    chunk: int = 0  # tokens of each row; 0: about CHUNK_BYTES of logits


class LossSums(NamedTuple):
    """Sums over tokens, float32 scalars; divide by `weight` once everything is added up."""

    loss: jax.Array  # what is minimised: weighted nll with z-loss and label smoothing
    nll: jax.Array  # weighted negative log-likelihood, in nats
    weight: jax.Array  # sum of the weights


def cross_entropy(
    hidden_BTD: jax.Array, kernel_DV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array,
    options: LossOptions, compute: Compute,
) -> LossSums:
    """The loss sums of next-token prediction; differentiable in `hidden_BTD` and `kernel_DV`.

    z-loss: Chowdhery et al. 2022 (PaLM); label smoothing: Szegedy et al. 2016.
    """
    weights_BT = weights_BT.astype(jnp.float32)
    loss, nll = _loss_and_nll(options, compute, hidden_BTD, kernel_DV, targets_BT, weights_BT)
    return LossSums(loss, nll, jnp.sum(weights_BT))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss_and_nll(options, compute, hidden_BTD, kernel_DV, targets_BT, weights_BT):
    def body(sums, chunk):
        x_BCD, y_BC, w_BC = chunk
        logits, _ = _logits(options, compute, x_BCD, kernel_DV)
        loss, nll, _ = _chunk_loss(options, logits, y_BC, w_BC)
        return (sums[0] + loss, sums[1] + nll), None

    kernel_DV = _gathered(compute, kernel_DV, hidden_BTD.dtype)
    chunks = _chunks(options, compute, kernel_DV.shape[1], hidden_BTD, targets_BT, weights_BT)
    return jax.lax.scan(body, (jnp.float32(0), jnp.float32(0)), chunks)[0]


def _forward(options, compute, hidden_BTD, kernel_DV, targets_BT, weights_BT):
    B, T, D = hidden_BTD.shape
    V, kernel_dtype = kernel_DV.shape[1], kernel_DV.dtype
    kernel_DV = _gathered(compute, kernel_DV, hidden_BTD.dtype)

    def body(carry, chunk):
        loss_sum, nll_sum, kernel_gradient = carry
        x_BCD, y_BC, w_BC = chunk
        logits, slope = _logits(options, compute, x_BCD, kernel_DV)
        loss, nll, lse = _chunk_loss(options, logits, y_BC, w_BC)
        gradient = _chunk_gradient(options, logits, y_BC, w_BC, lse) * slope
        gradient = gradient.astype(x_BCD.dtype)
        x_gradient = jnp.einsum("bcv,dv->bcd", gradient, kernel_DV)
        kernel_gradient += jnp.einsum(
            "bcd,bcv->dv", x_BCD, gradient, preferred_element_type=jnp.float32
        )
        return (loss_sum + loss, nll_sum + nll, kernel_gradient), x_gradient

    zero = jnp.float32(0)
    start = (zero, zero, jnp.zeros((D, V), jnp.float32))
    chunks = _chunks(options, compute, V, hidden_BTD, targets_BT, weights_BT)
    (loss, nll, kernel_gradient), x_gradients = jax.lax.scan(body, start, chunks)
    hidden_gradient = x_gradients.swapaxes(0, 1).reshape(B, -1, D)[:, :T]
    return (loss, nll), (hidden_gradient, kernel_gradient.astype(kernel_dtype))


def _backward(options, compute, residuals, cotangents):
    hidden_gradient, kernel_gradient = residuals
    scale = cotangents[0]  # the nll is for reading: it carries no gradient
    gradients = (g * scale.astype(g.dtype) for g in (hidden_gradient, kernel_gradient))
    return (*gradients, None, None)


_loss_and_nll.defvjp(_forward, _backward)


def _gathered(compute, kernel_DV, dtype):
    """The projection gathered once for all chunks, in the compute dtype."""
    return compute.constrain(kernel_DV.astype(dtype), None, "act_vocab")


def _logits(options, compute, x_BCD, kernel_DV):
    """Float32 logits [B, C, V] and their slope with respect to those before the soft-cap."""
    logits = jnp.einsum("bcd,dv->bcv", x_BCD, kernel_DV, preferred_element_type=jnp.float32)
    logits = compute.constrain(logits, "batch", None, "act_vocab")
    if not options.logit_softcap:
        return logits, 1.0
    bounded = jnp.tanh(logits / options.logit_softcap)
    return options.logit_softcap * bounded, 1.0 - bounded**2


def _chunk_loss(options, logits_BCV, targets_BC, weights_BC):
    lse_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
    target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)[..., 0]
    nll_BC = lse_BC - target_BC
    loss_BC = nll_BC
    if options.label_smoothing:
        uniform_BC = lse_BC - jnp.mean(logits_BCV, axis=-1)
        loss_BC = loss_BC + options.label_smoothing * (uniform_BC - nll_BC)
    if options.z_loss:
        loss_BC = loss_BC + options.z_loss * lse_BC**2
    # where, not a product: padding may hold any value, and 0 * inf is not 0
    counted = weights_BC != 0
    loss = jnp.sum(jnp.where(counted, loss_BC * weights_BC, 0))
    nll = jnp.sum(jnp.where(counted, nll_BC * weights_BC, 0))
    return loss, nll, lse_BC


def _chunk_gradient(options, logits_BCV, targets_BC, weights_BC, lse_BC):
    """d loss / d logits of one chunk, float32 [B, C, V]."""
    V = logits_BCV.shape[-1]
    probabilities = jnp.exp(logits_BCV - lse_BC[..., None])
    onehot = jnp.arange(V) == targets_BC[..., None]
    smoothing = options.label_smoothing
    wanted = jnp.where(onehot, 1.0 - smoothing, 0.0) + smoothing / V
    pull = probabilities
    if options.z_loss:
        pull = pull * (1.0 + 2.0 * options.z_loss * lse_BC[..., None])
    weights = weights_BC[..., None]
    return jnp.where(weights != 0, (pull - wanted) * weights, 0)


def _chunks(options, compute, vocabulary: int, *arrays_BT):
    """The arrays cut along T into [chunks, B, C, …]; the last chunk is padded with zeros."""
    B, T = arrays_BT[0].shape[:2]
    size = chunk_size(options, compute, B, T, vocabulary)
    count = -(-T // size)

    def cut(x):
        padding = [(0, 0), (0, count * size - T)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, padding).reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)

    return tuple(cut(x) for x in arrays_BT)


def chunk_size(options: LossOptions, compute: Compute, B: int, T: int, vocabulary: int) -> int:
    """Tokens of each row per chunk: `options.chunk`, or about CHUNK_BYTES of logits."""
    if options.chunk:
        return min(options.chunk, T)
    sharding = compute.sharding
    rows = -(-B // sharding.parts("batch"))
    token_bytes = 4 * rows * -(-vocabulary // sharding.parts("act_vocab"))
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    count = -(-T * token_bytes // CHUNK_BYTES["cpu" if on_cpu else "accelerator"])
    return -(-T // count)
