"""What a parity reference holds, and the fixture that it is kept in; needs numpy alone.

Weights are not kept: they follow from a seed and their name, so that fixtures are small. Of hidden
states, logits and gradients a fixture keeps every so manieth number; fresh references hold all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
LENGTH, ENCODER_LENGTH = 32, 27  # beyond the original contexts of the cases' RoPE scalings
PADDED = (23, 32)  # tokens of each row
ENCODER_PADDED = (27, 16)
PACKED = ((10, 11, 11), (19, 13))  # of each document
SPECIAL = 6  # ids below are left to special tokens
TOKENS, ENTRIES = 11, 64  # a fixture keeps each 11th token, and 64 entries of each gradient
SPREAD = 0.3  # weights are uniform in ± this; scales of norms in 0.5 ± this


class Rows(NamedTuple):
    """The inputs, int32 [R, T]; the encoder's are [R, S]. Segment 0 is padding."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    targets: np.ndarray  # of the loss
    types: np.ndarray | None = None
    encoder_ids: np.ndarray | None = None
    encoder_segments: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model of transformers and what it computes; tokens are the real ones, or some of them."""

    config: dict[str, Any]  # config.json
    shapes: dict[str, tuple[int, ...]]  # of model.safetensors
    copies: dict[str, str]  # tensors that are there twice: name, and the one that they equal
    seed: int
    sparse: bool  # holds a part of the numbers, as a fixture does
    rows: Rows
    hidden: dict[str, np.ndarray]  # of each tower, [layers + 1, tokens, D]
    outputs: np.ndarray  # logits [tokens, V], classes [tokens or R, C], or a state [R, D]
    loss: float
    gradients: dict[str, np.ndarray]  # some or all entries, flat

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights."""
        return {
            name: weight(self.copies.get(name, name), shape, self.seed)
            for name, shape in self.shapes.items()
        }


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A random tensor, nowhere zero or one; made of raw bits, which no numpy version changes."""
    bits = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(math.prod(shape))
    uniform = (bits >> np.uint64(11)) * 2.0**-52 - 1.0
    scale = len(shape) == 1 and name.endswith("weight")
    return (0.5 * scale + SPREAD * uniform.reshape(shape)).astype(np.float32)


def chosen(segments: np.ndarray, sparse: bool) -> np.ndarray:
    """Indices of the tokens that are compared, in the flattened rows."""
    return np.flatnonzero(segments)[:: TOKENS if sparse else 1]


def entries(gradient: np.ndarray, sparse: bool) -> np.ndarray:
    """The entries of a gradient that are compared."""
    flat = np.asarray(gradient).reshape(-1)
    return flat[:: max(1, flat.size // ENTRIES)] if sparse else flat


def make_rows(kind: str, config: dict[str, Any], labels: int, seed: int) -> Rows:
    """Padded rows, and for language models of one tower packed rows below them."""
    rng = np.random.default_rng(seed)
    vocabulary, pad = config["vocab_size"], config.get("pad_token_id") or 0
    lengths = [(n,) for n in PADDED] + (list(PACKED) if kind in ("decoder", "encoder") else [])
    shape = (len(lengths), LENGTH)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, documents in enumerate(lengths):
        ends = np.cumsum(documents)
        for number, (size, end) in enumerate(zip(documents, ends, strict=True), 1):
            segments[row, end - size : end] = number
            positions[row, end - size : end] = np.arange(size)
    positions[: len(PADDED)] = np.arange(LENGTH)  # padding goes on counting

    def ids(segments):
        drawn = rng.integers(SPECIAL, vocabulary, segments.shape)
        return np.where(segments, drawn, pad).astype(np.int32)

    rows = Rows(
        ids(segments), positions, segments,
        rng.integers(0, labels or vocabulary, shape).astype(np.int32),
    )
    if config.get("type_vocab_size"):
        rows = rows._replace(
            types=rng.integers(0, config["type_vocab_size"], shape).astype(np.int32)
        )
    if not config.get("is_encoder_decoder"):
        return rows
    if kind == "classifier":  # both towers read the text, which ends with its end token
        text = rows.ids.copy()
        text[np.arange(len(PADDED)), np.array(PADDED) - 1] = config["eos_token_id"]
        start = np.full_like(text[:, :1], config["decoder_start_token_id"])
        return rows._replace(
            ids=np.concatenate([start, text[:, :-1]], 1), encoder_ids=text,
            encoder_segments=segments,
        )
    inside = np.arange(ENCODER_LENGTH) < np.array(ENCODER_PADDED)[:, None]
    return rows._replace(
        encoder_ids=ids(inside), encoder_segments=inside.astype(np.int32)
    )


def save(reference: Reference, file: Path) -> None:
    """Writes a fixture."""
    assert reference.sparse
    facts = {
        name: getattr(reference, name) for name in ("config", "shapes", "copies", "seed", "loss")
    }
    facts["entries"] = {name: array.size for name, array in reference.gradients.items()}
    arrays = {f"rows/{k}": v for k, v in reference.rows._asdict().items() if v is not None}
    arrays |= {f"hidden/{tower}": array for tower, array in reference.hidden.items()}
    if reference.gradients:
        arrays["gradients"] = np.concatenate(list(reference.gradients.values()))
    file.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        file, facts=np.array(json.dumps(facts)), outputs=reference.outputs, **arrays
    )


def load(file: Path) -> Reference:
    """Reads a fixture."""
    with np.load(file, allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["facts"]))
        sizes = facts.pop("entries")
        flat = arrays["gradients"] if sizes else np.zeros(0)
        cuts = np.split(flat, np.cumsum(list(sizes.values()))[:-1]) if sizes else []
        facts["shapes"] = {name: tuple(shape) for name, shape in facts["shapes"].items()}
        return Reference(
            **facts, sparse=True,
            rows=Rows(**{k[5:]: arrays[k] for k in arrays.files if k.startswith("rows/")}),
            hidden={k[7:]: arrays[k] for k in arrays.files if k.startswith("hidden/")},
            outputs=arrays["outputs"], gradients=dict(zip(sizes, cuts, strict=True)),
        )
