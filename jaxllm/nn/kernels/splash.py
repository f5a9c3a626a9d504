"""Splash attention (Pallas, TPU) for causal, bidirectional, windowed, soft-capped and packed rows.

The kernel runs per device under `shard_map`: the batch is cut over the batch axes and the heads
over the tensor axis; in interpret mode it runs on a CPU, for the tests.
"""

from __future__ import annotations

import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from jaxllm.core.mesh import Sharding

BLOCK = 512  # queries and keys per tile; the largest that divides the length is used


def splash(q_BTNH, k_BSKH, v_BSKH, segments_BT, pattern, sharding: Sharding, interpret: bool):
    """Attention of `pattern` within equal segments (None: one segment); [B, T, N, H]."""
    heads = sharding.spec(("batch", None, "act_heads", None))
    rows = sharding.spec(("batch", None))
    call = functools.partial(_on_device, pattern=pattern, interpret=interpret)
    specs = (heads, heads, heads)
    if segments_BT is None:
        return jax.shard_map(
            lambda q, k, v: call(q, k, v, None),
            mesh=sharding.mesh, in_specs=specs, out_specs=heads, check_vma=False,
        )(q_BTNH, k_BSKH, v_BSKH)
    return jax.shard_map(
        call, mesh=sharding.mesh, in_specs=(*specs, rows), out_specs=heads, check_vma=False
    )(q_BTNH, k_BSKH, v_BSKH, segments_BT)


def _on_device(q_BTNH, k_BSKH, v_BSKH, segments_BT, pattern, interpret: bool):
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    kernel = _kernel(T, N // K, pattern, interpret)
    q = q_BTNH.transpose(0, 2, 1, 3) * pattern.scores_scale(H)  # the kernel does not scale
    q = q.reshape(B, K, N // K, T, H).astype(q_BTNH.dtype)
    k, v = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)

    def one_row(q, k, v, segments):
        ids = None if segments is None else kernels.SegmentIds(segments, segments)
        return jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=ids))(q, k, v)

    axes = (0, 0, 0, None if segments_BT is None else 0)
    out = jax.vmap(one_row, in_axes=axes)(q, k, v, segments_BT)
    return out.reshape(B, N, T, H).transpose(0, 2, 1, 3)


def _kernel(length: int, group: int, pattern, interpret: bool):
    square, window = (length, length), pattern.window - 1
    if pattern.window:
        mask = masks.LocalMask(square, (window, 0 if pattern.causal else window), 0)
    else:
        mask = masks.CausalMask(square) if pattern.causal else masks.FullMask(square)
    block = max(b for b in (BLOCK, 384, 256, 128) if length % b == 0)
    names = (
        "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
        "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
    )
    return kernels.make_splash_mqa_single_device(
        mask=masks.MultiHeadMask([mask] * group),
        block_sizes=kernels.BlockSizes(**dict.fromkeys(names, block)),
        attn_logits_soft_cap=pattern.softcap or None,
        residual_checkpoint_name="attention",  # remat policies save these, not only the output
        interpret=interpret,
    )
