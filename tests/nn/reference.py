"""Attention written the slow way: a loop over queries in float64 numpy."""

import math

import numpy as np


def attention(
    q, k, v, *, causal=True, window=0, softcap=0.0, scale=0.0, segments=None, prefix=None,
    bias=None,
):
    """softmax(q · kᵀ) · v for q [B, T, N, H] and k, v [B, T, K, H], one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    B, T, N, H = q.shape
    group = N // k.shape[2]
    out = np.zeros_like(q)
    for b in range(B):
        for n in range(N):
            for t in range(T):
                seen = [
                    s for s in range(T)
                    if (s <= t or not causal or (prefix is not None and prefix[b, s]))
                    and (not window or abs(t - s) < window)
                    and (segments is None or segments[b, s] == segments[b, t])
                ]
                scores = k[b, seen, n // group] @ q[b, t, n] * (scale or 1 / math.sqrt(H))
                if bias is not None:
                    scores = scores + bias[b, n, t, seen]
                if softcap:
                    scores = softcap * np.tanh(scores / softcap)
                weights = np.exp(scores - scores.max())
                out[b, t, n] = weights @ v[b, seen, n // group] / weights.sum()
    return out


def qkv(shape_BTNKH, seed=0, dtype=np.float32):
    """Random q [B, T, N, H] and k, v [B, T, K, H]."""
    B, T, N, K, H = shape_BTNKH
    rng = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H))
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def documents(B, T):
    """Segment ids: two or three documents and padding (0) at the end of each row."""
    segments = np.zeros((B, T), np.int32)
    for b in range(B):
        first, second = T // 3 + 5 * b, 2 * T // 3 + 3 * b
        segments[b, :first], segments[b, first:second] = 1, 2
        segments[b, second:T - 4] = 3
    return segments
