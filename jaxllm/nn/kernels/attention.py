"""`attend`: attention chosen by backend, every kernel equal to the plain one.

Shapes: B batch, T queries, S keys, N query heads, K key/value heads, G = N / K, H head dimension.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxllm.core.errors import UserError
from jaxllm.nn.compute import Compute
from jaxllm.nn.context import Order
from jaxllm.nn.kernels.tiles import tiles
from jaxllm.nn.layers import dropout

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row with no key stays finite


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which keys a query may see, and how scores are shaped."""

    causal: bool = True
    window: int = 0  # the last `window` keys, the query's own included; 0: all
    softcap: float = 0.0
    scale: float = 0.0  # 0: 1 / sqrt(H)
    dropout: float = 0.0
    cross: bool = False  # the keys are an encoder's, with segments of their own

    def scores_scale(self, head_dim: int) -> float:
        """The factor on q · k."""
        return self.scale or 1.0 / math.sqrt(head_dim)


class Places(NamedTuple):
    """Where queries and keys stand. Equal segments (documents) see each other; None: all one.

    Indices grow along the sequence; None: 0, 1, 2, … for queries and keys alike, or as `order` has
    them. Keys of a prefix are seen from before them too.
    """

    query_index_BT: jax.Array | None = None
    key_index_BS: jax.Array | None = None
    query_segments_BT: jax.Array | None = None
    key_segments_BS: jax.Array | None = None
    key_prefix_BS: jax.Array | None = None  # bool
    bias_BNTS: jax.Array | None = None  # float32, added to the scores; B may be 1
    order: Order | None = None  # of queries and keys, under context parallelism

    def indices(self, queries: int, keys: int) -> tuple[jax.Array, jax.Array]:
        """Where so many queries and keys stand, int32 [B or 1, T] and [B or 1, S]."""
        if self.order is not None:
            row = jnp.asarray(self.order.places(queries))[None]
            return row, row
        i, j = (jnp.arange(n, dtype=jnp.int32)[None] for n in (queries, keys))
        return (
            i if self.query_index_BT is None else self.query_index_BT,
            j if self.key_index_BS is None else self.key_index_BS,
        )


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, pattern: Pattern, places: Places,
    compute: Compute, key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q · kᵀ) · v over the keys that `pattern` and `places` allow; [B, T, N, H].

    `key` switches on dropout of the probabilities.
    """
    name = choose(compute, pattern, places, q_BTNH, k_BSKH, key)
    # Named for remat policies; splash names what its own backward pass wants, in its own layout.
    if name == "xla":
        out = _xla(q_BTNH, k_BSKH, v_BSKH, pattern, places, key)
        return checkpoint_name(out, "attention")
    if name == "cudnn":
        return checkpoint_name(_cudnn(q_BTNH, k_BSKH, v_BSKH, pattern, places), "attention")
    from jaxllm.nn.kernels.splash import splash  # Pallas: only where it runs

    interpret = name == "splash_interpret"
    return splash(q_BTNH, k_BSKH, v_BSKH, pattern, places, compute.sharding, interpret)


def choose(compute: Compute, pattern: Pattern, places: Places, q, k, key) -> str:
    """The kernel for these shapes: the one asked for, or the backend's best that can do it.

    Raises:
      UserError: the kernel asked for cannot do it, with the reason.
    """
    asked = compute.attention
    if asked == "xla" or places.query_index_BT is not None:
        return "xla"  # a key/value cache: keys stand elsewhere than queries
    platform = compute.sharding.mesh.devices.flat[0].platform.replace("cuda", "gpu")
    if asked == "auto":
        best = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "xla")
        return "xla" if refusal(best, pattern, places, q, k, key, compute) else best
    home = {"splash": "tpu", "cudnn": "gpu"}.get(asked, platform)
    reason = f"it runs on a {home.upper()}, and this is a {platform.upper()}"
    if platform == home:
        reason = refusal(asked, pattern, places, q, k, key, compute)
    if reason:
        raise UserError(f"train.attention={asked!r} cannot run this model: {reason}. Use 'auto'.")
    return asked


def refusal(
    name: str, pattern: Pattern, places: Places, q, k, key, compute: Compute
) -> str | None:
    """Why kernel `name` cannot compute this, or None when it can."""
    length, head_dim = q.shape[1], q.shape[3]
    if name == "xla":
        return None
    if places.bias_BNTS is not None:
        return "it adds no bias to the scores (ALiBi, relative positions)"
    if places.key_prefix_BS is not None:
        return "it has no prefix that is seen from before"
    if key is not None and pattern.dropout > 0:
        return "it has no dropout of attention probabilities"
    parts = compute.sharding.parts("sequence")
    if name == "cudnn":
        if parts > 1:
            return "it needs the whole sequence on a device, and mesh.context cuts it"
        if pattern.softcap:
            return "it has no soft-cap"
        if q.dtype not in (jnp.bfloat16, jnp.float16):
            return f"it computes in bfloat16 or float16, not {q.dtype}"
        if head_dim % 8 or head_dim > 128:
            return f"it takes head dimensions that are multiples of 8 up to 128, not {head_dim}"
        return None
    if k.shape[1] != length:
        return "it is set up for as many keys as queries"
    if pattern.cross and places.key_segments_BS is not None:
        return "it is set up for keys of the queries' own documents, not for an encoder's padding"
    if length % (128 * parts):
        cut = f" x mesh.context = {128 * parts}" if parts > 1 else ""
        return f"it takes sequence lengths that are multiples of 128{cut}, not {length}"
    if tiles(compute.sharding.chip, length, parts, head_dim, q.dtype.itemsize) is None:
        return f"no tile of heads of {head_dim} fits the vector memory of a {compute.sharding.chip}"
    return None


def mask_of(pattern: Pattern, places: Places, queries: int, keys: int) -> jax.Array | None:
    """Boolean [B or 1, T, S], True where a query may see a key; None when it may see all."""
    i, j = places.indices(queries, keys)
    i, j = i[:, :, None], j[:, None, :]
    parts = []
    if pattern.causal and places.key_prefix_BS is not None:
        parts.append((j <= i) | places.key_prefix_BS[:, None, :])
    elif pattern.causal:
        parts.append(j <= i)
    if pattern.window:
        parts.append(j > i - pattern.window)
        if not pattern.causal:
            parts.append(j < i + pattern.window)
    if places.query_segments_BT is not None:
        same = places.query_segments_BT[:, :, None] == places.key_segments_BS[:, None, :]
        parts.append(same)
    mask = None
    for part in parts:
        mask = part if mask is None else mask & part
    return mask


def _xla(q_BTNH, k_BSKH, v_BSKH, pattern: Pattern, places: Places, key) -> jax.Array:
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    # Batch dimensions first: XLA's batched products are then plain ones (twice as fast on a CPU).
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)
    scores = jnp.einsum(
        "bkgth,bksh->bkgts", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    ) * pattern.scores_scale(H)
    if places.bias_BNTS is not None:
        bias = places.bias_BNTS
        scores = scores + bias.reshape(bias.shape[0], K, N // K, *bias.shape[2:])
    if pattern.softcap:
        scores = pattern.softcap * jnp.tanh(scores / pattern.softcap)
    mask = mask_of(pattern, places, T, S)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, MASKED)
    weights = dropout(jax.nn.softmax(scores, axis=-1), pattern.dropout, key)
    out = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v_BSKH.dtype), v_BKSH)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _cudnn(q_BTNH, k_BSKH, v_BSKH, pattern: Pattern, places: Places) -> jax.Array:
    mask = None
    if places.query_segments_BT is not None:  # documents: a mask instead of the causal shortcut
        mask = mask_of(pattern, places, q_BTNH.shape[1], k_BSKH.shape[1])[:, None]
    window = None
    if mask is None and pattern.window:
        window = (pattern.window - 1, 0 if pattern.causal else pattern.window - 1)
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=mask, is_causal=pattern.causal and mask is None,
        scale=pattern.scores_scale(q_BTNH.shape[-1]), local_window_size=window,
        implementation="cudnn",
    )
