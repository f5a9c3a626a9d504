"""Divergences between the predictions of two passes, without [batch, length, vocabulary] logits.

Tokens are taken a chunk at a time: both passes' logits of the chunk are formed, reduced to a number
a token, and formed again in the backward pass. Nothing of vocabulary size survives a chunk but the
gradient of an output projection, of which each device adds up its own part.

Shapes: P devices that share the tokens, n chunks of C tokens of each, D width, V vocabulary, K the
likeliest tokens of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxllm.nn.compute import Compute
from jaxllm.train.losses import LossOptions
from jaxllm.train.scores import Scores

# Of float32 logits per device, chunk and pass, when the size is not given; see loss_chunks.py.
CHUNK_BYTES = {"cpu": 16 * 2**20, "accelerator": 2**28}

Side = tuple[Scores, LossOptions]  # a pass, and the soft-cap of its model's logits
# Float32 logits [..., V] of each side, and what else a token brings, to a number a token.
Measure = Callable[..., jax.Array]


def kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(P‖Q) in nats of every place, [...] of logits [..., V]."""
    p, q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def symmetric_kl(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(P‖Q) + KL(Q‖P) of every place."""
    p, q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return jnp.sum((jnp.exp(p) - jnp.exp(q)) * (p - q), axis=-1)


def jsd(student: jax.Array, teacher: jax.Array, beta: float) -> jax.Array:
    """β KL(teacher‖M) + (1 - β) KL(student‖M) with M = β teacher + (1 - β) student, of every place.

    Both are log-probabilities [..., V]. By convention β = 0 is KL(teacher‖student) and β = 1 is
    KL(student‖teacher), to which the divergence over β and over 1 - β tends (Agarwal et al. 2024,
    GKD; TRL's `generalized_jsd_loss`).
    """
    if beta == 0:
        return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    if beta == 1:
        return jnp.sum(jnp.exp(student) * (student - teacher), axis=-1)
    mixture = jnp.logaddexp(student + jnp.log1p(-beta), teacher + jnp.log(beta))
    of_teacher = jnp.sum(jnp.exp(teacher) * (teacher - mixture), axis=-1)
    of_student = jnp.sum(jnp.exp(student) * (student - mixture), axis=-1)
    return beta * of_teacher + (1 - beta) * of_student


def weighted_sum(
    measure: Measure, sides: Sequence[Side], compute: Compute,
    extras: Sequence[jax.Array] = (), weights: jax.Array | None = None,
) -> jax.Array:
    """Σ weight · measure(logits of each side, *extras) over all places; a float32 scalar.

    Differentiable in everything that the sides hold. `extras` are [B, T, …] each; the weights are
    those of the first side if none are given. Of sides with vocabularies of different sizes (a
    padded embedding) the first V rows that both have are compared.
    """
    first = sides[0][0]
    weights = (first.weights if weights is None else weights).astype(jnp.float32)
    if first.kernel is None:
        values = measure(*(side.values for side, _ in sides), *extras)
        return jnp.sum(jnp.where(weights != 0, values * weights, 0))
    compute = compute.outside(weights.shape[0])
    vocabulary = min(side.kernel.shape[1] for side, _ in sides)
    kernels = [spread_kernel(compute, side.kernel[:, :vocabulary]) for side, _ in sides]
    biases = [None if side.bias is None else side.bias[:vocabulary] for side, _ in sides]
    arrays = [side.values for side, _ in sides], list(extras), weights
    chunks = cut_tokens(compute, sides[0][1], vocabulary, arrays)

    def body(total_P: jax.Array, chunk):
        xs, more, w_PC = chunk
        there = w_PC[..., None] != 0  # padding may hold any value, whose gradient would be none
        logits = [
            chunk_logits(compute, jnp.where(there, x_PCD, 0), kernel, bias, options.logit_softcap)
            for x_PCD, kernel, bias, (_, options) in zip(xs, kernels, biases, sides, strict=True)
        ]
        each_PC = measure(*logits, *more)
        return total_P + jnp.sum(each_PC * w_PC, axis=1), None

    start = compute.constrain(jnp.zeros(kernels[0].shape[0]), "tokens")
    step = jax.checkpoint(body, prevent_cse=False)
    return jnp.sum(jax.lax.scan(step, start, chunks)[0])


def spread_kernel(compute: Compute, kernel_DV: jax.Array) -> jax.Array:
    """The projection gathered, a copy for each device, so that each adds up its own gradient."""
    parts = compute.sharding.parts("tokens")
    kernel_PDV = jnp.broadcast_to(kernel_DV[None], (parts, *kernel_DV.shape))
    return compute.constrain(kernel_PDV, "tokens", None, "act_vocab")


def chunk_logits(compute: Compute, x_PCD, kernel_PDV, bias_V, softcap: float) -> jax.Array:
    """Float32 [P, C, V]."""
    logits = jnp.einsum(
        "pcd,pdv->pcv", x_PCD, kernel_PDV.astype(x_PCD.dtype), preferred_element_type=jnp.float32
    )
    logits = compute.constrain(logits, "tokens", None, "act_vocab")
    if bias_V is not None:
        logits = logits + bias_V.astype(jnp.float32)
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def cut_tokens(compute: Compute, options: LossOptions, vocabulary: int, arrays):
    """The arrays [B, T, …] as [n, P, C, …], the last chunk filled up with weightless tokens."""
    sharding = compute.sharding
    B, T = jax.tree.leaves(arrays)[0].shape[:2]
    parts = sharding.parts("tokens")
    mine = B * T // parts
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    room = CHUNK_BYTES["cpu" if on_cpu else "accelerator"]
    columns = -(-vocabulary // sharding.parts("act_vocab"))
    size = options.chunk * mine // T or room // (4 * columns)
    count = -(-mine // min(max(size, 1), mine))
    size = -(-mine // count)

    def cut(x: jax.Array) -> jax.Array:
        x = sharding.by_device(x)
        x = jnp.pad(x, [(0, 0), (0, count * size - mine), *[(0, 0)] * (x.ndim - 2)])
        x = x.reshape(parts, count, size, *x.shape[2:]).swapaxes(0, 1)
        return compute.constrain(x, None, "tokens", *(None,) * (x.ndim - 2))

    return jax.tree.map(cut, arrays)
