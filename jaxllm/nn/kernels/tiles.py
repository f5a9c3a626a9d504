"""The splash kernel's tiles: as large as the chip's vector memory takes, known before a compile.

Larger tiles read keys and values from HBM fewer times. What a tile takes of vector memory was
measured with ahead-of-time compiles (libtpu 0.0.42, limits set so low that the compiler refuses and
says how much it wanted); `memory` is a little above each of those figures:

| pass | queries x keys (computed at once) | head | measured MiB | `memory` |
|---|---|---|---|---|
| forward | 1024 x 1024 (1024) | 128 | 10.3 | 10.7 |
| forward | 2048 x 2048 (512) | 128 | 25.7 | 28.5 |
| fused backward | 1024 x 1024 (512) | 128 | 7.2 | 8.8 |
| fused backward | 1024 x 1024 (1024) | 128 | 9.6 | 11.4 |
| fused backward | 2048 x 2048 (512) | 128 | 13.7 | 17.6 |
| fused backward | 4096 x 4096 (2048) | 128 | 64.8 | 66.4 |
"""

from __future__ import annotations

from typing import NamedTuple

MIB = 2**20

# Vector memory that XLA gives a kernel, by the kind of device (xla_tpu_scoped_vmem_limit_kib left
# alone). Measured for v5e, v5p and v6e; v4 has no more, and TPU7x is taken to be as v5p.
VMEM = {
    "TPU v4": 16 * MIB, "TPU v5 lite": 16 * MIB, "TPU v5e": 16 * MIB, "TPU v5": 16 * MIB,
    "TPU v5p": 16 * MIB, "TPU v6 lite": 32 * MIB, "TPU v6e": 32 * MIB, "TPU7x": 16 * MIB,
}
OTHER = 16 * MIB  # a chip that is not in the table, and the interpreter

SIZES = (2048, 1024, 512, 384, 256, 128)
COMPUTE = 512  # keys of a tile that are computed at once, where the tile is larger
LANES = 128  # statistics, indices and segments are kept once per lane

# The fused backward pass forms the scores once and not twice, 5 products instead of 7. It writes a
# partial gradient of the queries for each tile of keys: so many copies of the queries' gradient are
# the most that is taken for it.
FUSED_COPIES = 4


class Tiles(NamedTuple):
    """Queries and keys of a tile, and keys computed at once, forward and backward."""

    query: int
    key: int
    compute: int
    back_query: int
    back_key: int
    back_compute: int
    fused: bool

    def block_sizes(self) -> dict[str, int | bool]:
        """As the kernel names them."""
        sizes = {
            "block_q": self.query, "block_kv": self.key, "block_kv_compute": self.compute,
            "block_q_dkv": self.back_query, "block_kv_dkv": self.back_key,
            "block_kv_dkv_compute": self.back_compute, "use_fused_bwd_kernel": self.fused,
        }
        if not self.fused:
            sizes |= {"block_q_dq": self.back_query, "block_kv_dq": self.back_key}
        return sizes


def tiles(chip: str, length: int, parts: int, head_dim: int, itemsize: int) -> Tiles | None:
    """The tiles of rows of `length` tokens whose queries lie on `parts` devices; None: none fit.

    `chip` is the kind of device, `itemsize` the bytes of a query's number.
    """
    limit = VMEM.get(chip, OTHER)
    # a front and a back chunk of each row: a tile of both would have hardly a key masked
    queries = length // parts
    if parts > 1 and queries % (2 * LANES) == 0:
        queries //= 2
    # of four tiles a side five eighths are computed under a causal mask, of one all
    sizes = [size for size in SIZES if size <= max(length // 4, COMPUTE)]
    pairs = [(q, k) for k in sizes for q in sizes if not (queries % q or length % k)]
    pairs.sort(key=lambda pair: (-pair[0] * pair[1], abs(pair[0] - pair[1])))

    def best(backward: bool) -> tuple[int, int, int] | None:
        fit = (
            (q, k, c) for q, k in pairs for c in (k if k % COMPUTE else COMPUTE,)
            if memory(q, k, c, head_dim, itemsize, backward) <= limit
        )
        return next(fit, None)

    ahead, back = best(False), best(True)
    if ahead is None or back is None:
        return None
    return Tiles(*ahead, *back, fused=length // back[1] <= FUSED_COPIES)


def memory(
    query: int, key: int, compute: int, head_dim: int, itemsize: int, backward: bool
) -> float:
    """Bytes of vector memory that a tile takes at most."""
    scores, lanes = 4 * query * compute, 4 * LANES
    if not backward:
        per_query = 2 * (2 * head_dim * itemsize + 4 * head_dim) + (3 * 2 + 2) * lanes
        per_key = 2 * 2 * head_dim * itemsize + 64
        return query * per_query + key * per_key + 0.9 * 4 * query * key
    per_query = 2 * 3 * head_dim * itemsize + 4 * head_dim + 3 * 64
    per_key = 2 * 4 * head_dim * itemsize + 2 * 4 * head_dim + 2 * lanes
    return query * per_query + key * per_key + 1.3 * scores
