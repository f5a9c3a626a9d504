"""Copies between tensors of two orders and dtypes, and what else passes at the speed of memory.

A matrix of theirs is most often ours transposed. numpy copies a transposed view element by element
along one of the two orders and misses the cache with each; tiles that are first brought together
make it twelve times as fast.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np

TILE = 128  # rows and columns: two tiles of 16-bit elements fit the first-level cache


def copy_cast(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source, in the target's dtype; the shapes are equal."""
    if target.size == 0:
        return
    target, source = _merged(target, source)
    across = _fastest(source)
    along = _fastest(target)
    if across == along or min(source.shape[across], target.shape[along]) < 8:
        target[...] = source
        return
    axes = [axis for axis in range(target.ndim) if axis not in (along, across)]
    source = source.transpose(*axes, along, across)
    target = target.transpose(*axes, along, across)
    tile = np.empty((TILE, TILE), target.dtype)
    for place in itertools.product(*(range(size) for size in source.shape[:-2])):
        _copy_transposed(target[place], source[place], tile)


# of each float the bits of the exponent, which are all set where it is not finite
_EXPONENTS = {
    np.dtype(np.float64): np.uint64(0x7FF << 52), np.dtype(np.float32): np.uint32(0x7F800000),
    np.dtype(np.float16): np.uint16(0x7C00), np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; by the bits, as numpy is slow with bfloat16."""
    exponent = _EXPONENTS[array.dtype]
    if array.size == 0:
        return True
    return bool(np.bitwise_and(array.view(exponent.dtype), exponent).max() < exponent)


def _copy_transposed(target: np.ndarray, source: np.ndarray, tile: np.ndarray) -> None:
    """A matrix that is contiguous along its rows into one that is so along its columns."""
    rows, columns = source.shape
    for row in range(0, rows, TILE):
        for column in range(0, columns, TILE):
            piece = source[row : row + TILE, column : column + TILE]
            part = tile[: piece.shape[0], : piece.shape[1]]
            part[...] = piece
            target[row : row + TILE, column : column + TILE].T[...] = part.T


def _merged(*arrays: np.ndarray) -> list[np.ndarray]:
    """Views with as few axes as describe all of the arrays, which have one shape."""
    shape: list[int] = []
    strides: list[list[int]] = [[] for _ in arrays]
    for axis, size in enumerate(arrays[0].shape):
        steps = [array.strides[axis] for array in arrays]
        if size == 1:
            continue
        if shape and all(own[-1] == step * size for own, step in zip(strides, steps, strict=True)):
            shape[-1] *= size
            for own, step in zip(strides, steps, strict=True):
                own[-1] = step
        else:
            shape.append(size)
            for own, step in zip(strides, steps, strict=True):
                own.append(step)
    return [
        np.lib.stride_tricks.as_strided(array, shape, own)
        for array, own in zip(arrays, strides, strict=True)
    ]


def _fastest(array: np.ndarray) -> int:
    """The axis along which neighbours lie side by side in memory."""
    return min(range(array.ndim), key=lambda axis: (array.strides[axis], -axis), default=0)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that jax takes over without a copy: XLA wants 64-byte boundaries."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + count].view(dtype).reshape(shape)
