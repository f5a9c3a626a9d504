"""How many groups of documents that are alike a pass found, and of which sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from jaxllm.data.manifest import Groups

Counts = dict[str, Any]  # as JSON keeps it: {"groups": 2, "documents": 9, "bits": {"3": 2}}


def count(sizes: np.ndarray) -> Counts:
    """Counts of the groups of these sizes, int64[G]; a document alone is no group."""
    sizes = sizes[sizes > 1]
    bits: dict[str, int] = {}
    for size, number in zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)),
                            strict=True):
        name = str(size.bit_length())
        bits[name] = bits.get(name, 0) + number
    return {"groups": len(sizes), "documents": int(sizes.sum()), "bits": bits}


def merged(counts: Iterable[Counts]) -> Counts:
    """Counts of several sets of groups that have no document in common, as one."""
    total: Counts = {"groups": 0, "documents": 0, "bits": {}}
    for one in counts:
        total["groups"] += one["groups"]
        total["documents"] += one["documents"]
        for bits, number in one["bits"].items():
            total["bits"][bits] = total["bits"].get(bits, 0) + number
    return total


def by_stage(files: Iterable[epath.Path]) -> dict[str, Groups]:
    """What the passes wrote into the files, {stage: counts} each, as the manifest has it."""
    found = {}
    for file in files:
        for stage, counts in json.loads(file.read_text()).items():
            sizes = {str(2 ** int(bits)): counts["bits"][bits]
                     for bits in sorted(counts["bits"], key=int)}
            found[stage] = Groups(counts["groups"], counts["documents"], sizes)
    return found
