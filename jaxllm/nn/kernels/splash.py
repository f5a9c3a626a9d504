"""Splash attention (Pallas, TPU) for causal, bidirectional, windowed, soft-capped and packed rows.

The kernel runs per device under `shard_map`: the batch is cut over the batch axes, the heads over
the tensor axis and the queries over the context axis, where each device first gathers all keys and
values of its rows; in interpret mode it runs on a CPU, for the tests.

Shapes: B batch, T queries, S keys, N query heads, K key/value heads, H head dimension.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.core.mesh import Sharding
from jaxllm.nn.kernels.tiles import Tiles, tiles


def splash(q_BTNH, k_BSKH, v_BSKH, pattern, places, sharding: Sharding, interpret: bool):
    """Attention of `pattern` within the equal segments of `places`; [B, T, N, H]."""
    length, group = q_BTNH.shape[1], q_BTNH.shape[2] // k_BSKH.shape[2]
    parts, order = sharding.parts("sequence"), places.order
    chosen = tiles(sharding.chip, length, parts, q_BTNH.shape[3], q_BTNH.dtype.itemsize)
    full = not pattern.causal and not pattern.window  # then every part has the same mask
    kernel = _kernel(length, parts, group, pattern, order, chosen, interpret)
    rows, heads = ("batch", "sequence"), ("batch", "sequence", "act_heads", None)
    segments_BT = places.query_segments_BT
    along = sharding.spec(("sequence",))[0]

    def on_device(kernel, q, k, v, segments):
        keys = segments
        if parts > 1:
            k, v = (_whole(x, along, order) for x in (k, v))
            keys = None if segments is None else _whole(segments, along, order)
        return _rows(kernel, q * pattern.scores_scale(q.shape[-1]), k, v, segments, keys)

    cut = NamedSharding(sharding.mesh, PartitionSpec(None, None if full else along))
    masked, qkv = kernel.manual_sharding_spec(cut), sharding.spec(heads)
    documents = None if segments_BT is None else sharding.spec(rows)
    return jax.shard_map(
        on_device, mesh=sharding.mesh, check_vma=False, out_specs=qkv,
        in_specs=(masked, qkv, qkv, qkv, documents),
    )(kernel, q_BTNH, k_BSKH, v_BSKH, segments_BT)


def _whole(x, along: str, order):
    """The devices' parts of rows put together, in the rows' true order. Its gradient is scattered.
    """
    x = jax.lax.all_gather(x, along, axis=1, tiled=True)
    return x if order is None else order.restore(x)


def _rows(kernel, q_BTNH, k_BSKH, v_BSKH, queries_BT, keys_BS):
    """The kernel on each row and each group of heads; the queries are scaled already."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q = q_BTNH.transpose(0, 2, 1, 3).reshape(B, K, N // K, T, H).astype(k_BSKH.dtype)
    k, v = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)

    def one_row(q, k, v, queries, keys):
        ids = None if queries is None else kernels.SegmentIds(queries, keys)
        return jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=ids))(q, k, v)

    segments = None if queries_BT is None else 0
    out = jax.vmap(one_row, in_axes=(0, 0, 0, segments, segments))(q, k, v, queries_BT, keys_BS)
    return out.reshape(B, N, T, H).transpose(0, 2, 1, 3)


def _kernel(length: int, parts: int, group: int, pattern, order, chosen: Tiles, interpret: bool):
    """The kernel of a row with `group` query heads, its mask cut over `parts` of the queries."""
    square, window = (length, length), pattern.window - 1
    if pattern.window:
        mask = masks.LocalMask(square, (window, 0 if pattern.causal else window), 0)
    elif pattern.causal:
        mask = masks.CausalMask(square)
    else:  # a mask without a hole cannot be cut, nor need it be
        mask, parts = masks.FullMask((length // parts, length)), 1
    if order is not None and hasattr(mask, "q_sequence"):
        mask.q_sequence = np.asarray(order.places(length))  # the queries' true places
    return kernels.make_splash_mqa(
        mask=masks.MultiHeadMask([mask] * group), head_shards=1, q_seq_shards=parts,
        block_sizes=kernels.BlockSizes(**chosen.block_sizes()),
        attn_logits_soft_cap=pattern.softcap or None,
        residual_checkpoint_name="attention",  # remat policies save these, not only the output
        interpret=interpret,
    )
