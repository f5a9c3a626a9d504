"""The loss over chunks of tokens, each against the whole vocabulary.

For each chunk the logits are formed, reduced to the loss, and, when a gradient is wanted, turned at
once into the gradients of the hidden states and of the output projection; nothing of vocabulary
size but that gradient survives a chunk, and nothing is computed twice.

Shapes: P devices that share the batch, B rows (of one of them after P), T tokens, C tokens of a
chunk, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.nn.compute import Compute
from jaxllm.nn.layers import unfolded

# Float32 logits per device and chunk when the size is not given. A CPU wants them in its cache;
# an accelerator wants enough tokens per chunk to be bound by the product, not by reading weights.
CHUNK_BYTES = {"cpu": 16 * 2**20, "accelerator": 2**30}


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chunked_sums(options, compute, hidden_BTD, kernel_DV, bias_V, targets_BT, weights_BT):
    """The sums of loss, nll and right guesses; differentiable in hidden, kernel and bias."""
    def body(sums_P3, chunk):
        x_PBCD, y_PBC, w_PBC = chunk
        logits, _ = _logits(options, compute, x_PBCD, kernel_DV, bias_V)
        return sums_P3 + _chunk_loss(options, logits, y_PBC, w_PBC)[0], None

    kernel_DV = _gathered(compute, kernel_DV, hidden_BTD.dtype)
    chunks = _chunks(options, compute, kernel_DV.shape[1], hidden_BTD, targets_BT, weights_BT)
    sums_P3 = compute.constrain(jnp.zeros((chunks[0].shape[1], 3)), "batch", None)
    return tuple(jax.lax.scan(body, sums_P3, chunks)[0].sum(0))


def _forward(options, compute, hidden_BTD, kernel_DV, bias_V, targets_BT, weights_BT):
    B, T, D = hidden_BTD.shape
    V, kernel_dtype = kernel_DV.shape[1], kernel_DV.dtype
    kernel_DV = _gathered(compute, kernel_DV, hidden_BTD.dtype)
    chunks = _chunks(options, compute, V, hidden_BTD, targets_BT, weights_BT)
    P = chunks[0].shape[1]

    def pin_kernel(x_PDV):
        return compute.constrain(x_PDV, "batch", None, "act_vocab")

    def body(carry, chunk):
        sums_P3, kernel_gradient_PDV, bias_gradient_PV = carry
        x_PBCD, y_PBC, w_PBC = chunk
        logits, slope = _logits(options, compute, x_PBCD, kernel_DV, bias_V)
        sums, lse = _chunk_loss(options, logits, y_PBC, w_PBC)
        gradient = _chunk_gradient(options, logits, y_PBC, w_PBC, lse) * slope
        if bias_V is not None:
            bias_gradient_PV = bias_gradient_PV + gradient.sum((1, 2))
        gradient = gradient.astype(x_PBCD.dtype)
        x_gradient = jnp.einsum("pbcv,dv->pbcd", gradient, kernel_DV)
        added = unfolded(jnp.einsum(  # a tied projection is a table's transpose
            "pbcd,pbcv->pdv", x_PBCD, gradient, preferred_element_type=jnp.float32
        ))
        sums_P3, kernel_gradient_PDV = sums_P3 + sums, pin_kernel(kernel_gradient_PDV + added)
        return (sums_P3, kernel_gradient_PDV, bias_gradient_PV), x_gradient

    sums_P3 = compute.constrain(jnp.zeros((P, 3)), "batch", None)
    bias_gradient_PV = None if bias_V is None else jnp.zeros((P, V), jnp.float32)
    start = (sums_P3, pin_kernel(jnp.zeros((P, D, V), jnp.float32)), bias_gradient_PV)
    carry, x_gradients = jax.lax.scan(body, start, chunks)
    sums_P3, kernel_gradient_PDV, bias_gradient_PV = carry
    # The devices' parts are added up here, once, and not in every chunk.
    kernel_gradient = compute.constrain(kernel_gradient_PDV.sum(0), "embed", "vocab")
    hidden_gradient = jnp.moveaxis(x_gradients, 0, 2).reshape(B, -1, D)[:, :T]
    bias_gradient = None if bias_V is None else bias_gradient_PV.sum(0).astype(bias_V.dtype)
    gradients = (hidden_gradient, kernel_gradient.astype(kernel_dtype), bias_gradient)
    return tuple(sums_P3.sum(0)), gradients


def _backward(options, compute, residuals, cotangents):
    scale = cotangents[0]  # the other sums are for reading: they carry no gradient
    gradients = jax.tree.map(lambda g: g * scale.astype(g.dtype), residuals)
    return (*gradients, None, None)


chunked_sums.defvjp(_forward, _backward)


def _gathered(compute, kernel_DV, dtype):
    """The projection gathered once for all chunks, in the compute dtype."""
    return compute.constrain(kernel_DV.astype(dtype), None, "act_vocab")


def _logits(options, compute, x_PBCD, kernel_DV, bias_V):
    """Float32 logits [P, B, C, V] and their slope with respect to those before the soft-cap."""
    logits = jnp.einsum("pbcd,dv->pbcv", x_PBCD, kernel_DV, preferred_element_type=jnp.float32)
    logits = compute.constrain(logits, "batch", None, None, "act_vocab")
    if bias_V is not None:
        logits = logits + bias_V.astype(jnp.float32)
    if not options.logit_softcap:
        return logits, 1.0
    bounded = jnp.tanh(logits / options.logit_softcap)
    return options.logit_softcap * bounded, 1.0 - bounded**2


def _chunk_loss(options, logits, targets_PBC, weights_PBC):
    """The sums of loss, nll and right guesses, [P, 3], and log Z of every token, [P, B, C]."""
    lse = jax.nn.logsumexp(logits, axis=-1)
    nll = lse - jnp.take_along_axis(logits, targets_PBC[..., None], axis=-1)[..., 0]
    loss = nll
    if options.label_smoothing:
        uniform = lse - jnp.mean(logits, axis=-1)
        loss = loss + options.label_smoothing * (uniform - nll)
    if options.z_loss:
        loss = loss + options.z_loss * lse**2
    correct = jnp.zeros_like(nll)
    if options.accuracy:
        correct = (jnp.argmax(logits, axis=-1) == targets_PBC).astype(nll.dtype)
    # where, not a product: padding may hold any value, and 0 * inf is not 0
    sums = jnp.stack([loss, nll, correct], axis=-1) * weights_PBC[..., None]
    return jnp.sum(jnp.where(weights_PBC[..., None] != 0, sums, 0), axis=(1, 2)), lse


def _chunk_gradient(options, logits, targets_PBC, weights_PBC, lse_PBC):
    """d loss / d logits of one chunk, float32 [P, B, C, V]."""
    V = logits.shape[-1]
    probabilities = jnp.exp(logits - lse_PBC[..., None])
    onehot = jnp.arange(V) == targets_PBC[..., None]
    smoothing = options.label_smoothing
    wanted = jnp.where(onehot, 1.0 - smoothing, 0.0) + smoothing / V
    pull = probabilities
    if options.z_loss:
        pull = pull * (1.0 + 2.0 * options.z_loss * lse_PBC[..., None])
    weights = weights_PBC[..., None]
    return jnp.where(weights != 0, (pull - wanted) * weights, 0)


def _chunks(options, compute, vocabulary: int, *arrays_BT):
    """The arrays cut along T into [chunks, P, B, C, …], P parts of the batch by device.

    The last chunk is padded with zeros.
    """
    rows, T = arrays_BT[0].shape[:2]
    parts = compute.sharding.parts("batch")
    size = chunk_size(options, compute, rows, T, vocabulary)
    count = -(-T // size)

    def cut(x):
        padding = [(0, 0), (0, count * size - T)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(parts, rows // parts, count, size, *x.shape[2:])
        x = jnp.moveaxis(x, 2, 0)
        return compute.constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    return tuple(cut(x) for x in arrays_BT)


def chunk_size(options, compute: Compute, B: int, T: int, vocabulary: int) -> int:
    """Tokens of each row per chunk: `options.chunk`, or about CHUNK_BYTES of logits."""
    if options.chunk:
        return min(options.chunk, T)
    sharding = compute.sharding
    rows = -(-B // sharding.parts("batch"))
    token_bytes = 4 * rows * -(-vocabulary // sharding.parts("act_vocab"))
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    count = -(-T * token_bytes // CHUNK_BYTES["cpu" if on_cpu else "accelerator"])
    return -(-T // count)
