"""What tells one model on disk from another, without reading all of it.

An adapter is only worth something on the base that it was trained on: its run keeps the base's
fingerprint, and another base is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllm.core.checkpoint import Meta

PIECES, PIECE_BYTES = 16, 4096  # of each tensor that are read


def of_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """The fingerprint of a folder's tensors: names, dtypes, shapes and bytes spread over each.

    Training moves nearly every element of a matrix, so that bytes of a few thousand of each tell.
    How the tensors are shared out to files does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.name} {tensor.shape}".encode())
        content = tensor.reshape(-1).view(np.uint8)
        last = max(content.size - PIECE_BYTES, 0)
        for piece in range(PIECES):
            start = last * piece // (PIECES - 1)
            digest.update(content[start : start + PIECE_BYTES].tobytes())
            if not last:
                break
    return digest.hexdigest()


def of_checkpoint(meta: Meta) -> str:
    """The fingerprint of a step's parameters, by their checksums, and of the base under them."""
    arrays = {n: found for n, found in meta["arrays"].items() if n.startswith("params.")}
    return of_values({"arrays": arrays, "base": meta.get("base", "")})


def of_values(values: Any) -> str:
    """The fingerprint of what JSON can say."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
