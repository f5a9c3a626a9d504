"""FLOPs of a training step: what the model needs (MFU), and what the program really computes.

The first is models/flops.py again, without jax: every product once forward and twice backward,
causal attention counted once. The second adds what a remat policy computes again and what an
attention kernel computes beyond the causal half; the tests count the products of the traced step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig
from jaxllm.plan.remat import Remat
from jaxllm.plan.shapes import ModelShape, TowerShape

# Of the loss: scores and both gradients (train/loss_chunks.py); the scores twice where FSDP cuts
# the projection and a first pass finds log Z (train/loss_blocks.py).
HEAD_PRODUCTS, HEAD_PRODUCTS_FSDP = 3, 4


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row."""

    own: int  # of the decoder, or of the only tower
    encoder: int = 0  # of an encoder-decoder's encoder
    targets: int = 0  # places of a row whose tokens are predicted; 0: all

    @property
    def scored(self) -> int:
        """Places that the vocabulary is scored at."""
        return self.targets or self.own

    @property
    def total(self) -> int:
        """Tokens that the model reads."""
        return self.own + self.encoder


@dataclass(frozen=True)
class Kernel:
    """How attention is computed: in tiles of `block` queries and keys, or all at once (0)."""

    name: str
    block: int  # tiles that the mask leaves empty are skipped
    backward: int  # products of the backward pass, recomputed scores included

    def keys(self, length: int, window: int, causal: bool) -> float:
        """Keys that are multiplied with each query, masked ones of partly needed tiles too."""
        if not self.block:
            return length
        tiles = -(-length // self.block)
        reach = -(-max(window - 1, 0) // self.block) + 1 if window else tiles
        if not causal:
            return min(length, (2 * reach - 1) * self.block)
        reach = min(reach, tiles)
        visited = reach * tiles - reach * (reach - 1) / 2
        return min(length, self.block * visited / tiles)


XLA = Kernel("xla", 0, 4)
SPLASH = Kernel("splash", 512, 7)  # backward: scores and dP once for dQ, again for dK and dV
SPLASH_FUSED = Kernel("splash, fused backward, tiles of 2048", 2048, 5)
CUDNN = Kernel("cudnn", 128, 5)


@dataclass(frozen=True)
class Product:
    """A product of tokens with a matrix in a layer."""

    name: str  # of its result in remat.py
    inputs: int
    outputs: int
    tokens: int  # of a row
    tensor: bool  # mesh.tensor cuts it
    needed: bool  # the backward pass reads its result


@dataclass(frozen=True)
class Flops:
    """FLOPs of one row, in a part of the step."""

    products: float  # with matrices of the layers
    attention: float  # scores, weighted sums and their gradients
    head: float  # the projection to the vocabulary, and what is before it in the head

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.attention + self.head


def layer_products(tower: TowerShape, lengths: Lengths) -> list[Product]:
    """The matrix products of one layer, in the order of the forward pass."""
    config = tower.config
    length = lengths.encoder if lengths.encoder and not tower.causal else lengths.own
    plain = config.norm.placement == "pre"
    found = []
    for weight in tower.layer:
        if not weight.kernel:
            continue
        group, name = weight.name.split(".")
        memory = group == "cross" and name in ("key", "value")
        if group == "mlp":
            name = name if name == "down" else f"mlp_{name}"
        elif memory:
            name = f"cross_{name}"
        needed = not plain if name == "down" else True
        if name == "output" and plain and config.parallel_residual:
            needed = False  # nothing after it reads the sum
        tokens = lengths.encoder if memory else length
        found.append(Product(
            name, weight.inputs, weight.outputs, tokens, weight.tensor > 0, needed
        ))
    return found


def attention_calls(
    tower: TowerShape, lengths: Lengths
) -> Iterator[tuple[int, int, int, bool, int]]:
    """(queries, keys, window, causal, layers) of the attentions of a tower, equal ones together."""
    length = lengths.encoder if lengths.encoder and not tower.causal else lengths.own
    windows: dict[int, int] = {}
    for layer in range(tower.layers):
        windows[tower.window(layer)] = windows.get(tower.window(layer), 0) + 1
    for window, layers in windows.items():
        yield length, length, window, tower.causal, layers
    if tower.cross:
        yield lengths.own, lengths.encoder, 0, False, tower.layers


def model_flops(shape: ModelShape, lengths: Lengths) -> float:
    """FLOPs of one row, forward and backward: the numerator of MFU."""
    forward = _head_forward(shape, lengths)
    for tower in shape.towers:
        forward += tower.layers * _products_forward(tower, lengths)
        for queries, keys, window, causal, layers in attention_calls(tower, lengths):
            seen = _seen(keys, window, causal)
            forward += layers * queries * seen * 2 * _pair_flops(tower.config)
    return 3 * forward


def step_flops(
    shape: ModelShape, lengths: Lengths, remat: Remat, kernel: Kernel
) -> dict[str, Flops]:
    """FLOPs of one row that the program computes: forward, backward and recomputed."""
    forward = dict.fromkeys(("products", "attention"), 0.0)
    again, back_attention = dict(forward), 0.0
    for tower in shape.towers:
        for product in layer_products(tower, lengths):
            flops = 2.0 * product.inputs * product.outputs * product.tokens * tower.layers
            forward["products"] += flops
            if product.needed and not remat.keeps(product.name):
                again["products"] += flops
        for queries, keys, window, causal, layers in attention_calls(tower, lengths):
            computed = kernel.keys(keys, window, causal)
            one = layers * queries * computed * _pair_flops(tower.config)
            forward["attention"] += 2 * one
            back_attention += kernel.backward * one
            again["attention"] += one * again_in_attention(remat, kernel)
    head = _head_forward(shape, lengths)
    return {
        "forward": Flops(**forward, head=head),
        "backward": Flops(2 * forward["products"], back_attention, (HEAD_PRODUCTS - 1) * head),
        "recomputed": Flops(**again, head=0.0),
    }


def again_in_attention(remat: Remat, kernel: Kernel) -> int:
    """Products of attention's forward pass that are computed again before its backward pass."""
    if remat.keeps("between"):
        return 0
    if remat.keeps("attention"):
        return 0 if kernel.block else 1  # plain attention keeps no scores
    return 2


def _products_forward(tower: TowerShape, lengths: Lengths) -> float:
    return sum(2.0 * p.inputs * p.outputs * p.tokens for p in layer_products(tower, lengths))


def _pair_flops(config: ModelConfig) -> float:
    """Of one product, scores or weighted sum, for one query and one key in all heads."""
    return 2.0 * config.attention.heads * config.attention.head_dim


def _seen(keys: int, window: int, causal: bool) -> float:
    """Keys that a query may see on average: models/flops.mean_context where it is causal."""
    if causal:
        reach = min(window, keys) if window else keys
        return reach - reach * reach / (2 * keys)
    return min(2 * window - 1, keys) if window else keys


def _head_forward(shape: ModelShape, lengths: Lengths) -> float:
    config = shape.config
    language = config.head.kind in LANGUAGE_HEADS
    params = sum(w.size for w in shape.head if w.kernel)
    if language and config.tied:
        params += shape.embedding.size
    everywhere = language or config.head.pooling == "none"
    return 2.0 * params * (lengths.scored if everywhere else 1)
