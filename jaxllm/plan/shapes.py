"""The parameters and matrix products of a model, from its configuration alone, without jax.

A plan is made in a second, and importing jax and the model takes longer. The tests hold these
lists against the parameters that the model itself declares, for every preset, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.models.config import LANGUAGE_HEADS, ModelConfig


@dataclass(frozen=True)
class Weight:
    """One parameter of a layer, or of the model."""

    name: str
    size: int  # entries
    kernel: bool = False  # a matrix that tokens are multiplied with
    inputs: int = 0  # of a kernel: entries of a token going in
    outputs: int = 0
    fsdp: bool = False  # has a dimension that mesh.fsdp cuts
    tensor: int = 0  # the size of the dimension that mesh.tensor cuts; 0: none
    dims: tuple[int, ...] = ()  # of a kernel or table as it is stored, without "layers"


@dataclass(frozen=True)
class TowerShape:
    """A stack of layers: what one layer holds, and what the tower holds besides."""

    config: ModelConfig
    layers: int
    causal: bool
    cross: bool
    layer: tuple[Weight, ...]
    besides: tuple[Weight, ...]

    def window(self, index: int) -> int:
        """Keys that layer `index` sees at most; 0: all."""
        attention = self.config.attention
        local = attention.pattern[index % len(attention.pattern)] == "local"
        return attention.window if local else 0


@dataclass(frozen=True)
class ModelShape:
    """Every parameter of a model."""

    config: ModelConfig
    encoder: TowerShape | None
    decoder: TowerShape | None
    embedding: Weight
    head: tuple[Weight, ...]  # of a tied model without the projection

    @property
    def towers(self) -> list[TowerShape]:
        """The encoder and the decoder, as far as there are."""
        return [tower for tower in (self.encoder, self.decoder) if tower]

    @property
    def layer_parameters(self) -> int:
        """Of all layers."""
        return sum(t.layers * sum(w.size for w in t.layer) for t in self.towers)

    @property
    def parameters(self) -> int:
        """All of them."""
        rest = sum(w.size for tower in self.towers for w in tower.besides)
        return (
            self.layer_parameters + rest + self.embedding.size + sum(w.size for w in self.head)
        )

    @property
    def embedding_parameters(self) -> int:
        """Of the tables that tokens, positions and types are looked up in."""
        tables = [w for tower in self.towers for w in tower.besides if w.name.endswith("table")]
        return self.embedding.size + sum(w.size for w in tables)

    @property
    def projection(self) -> Weight:
        """The output projection to the vocabulary, which may be the embedding's table."""
        return next((w for w in self.head if w.name == "output"), _kernel(
            "output", self.config.width, self.config.vocab_size, tensor=self.config.vocab_size
        ))


def model_shape(config: ModelConfig) -> ModelShape:
    """The shape of a completed configuration."""
    width, both = config.width, config.architecture == "encoder_decoder"
    encoder = decoder = None
    if config.architecture != "decoder":
        encoder = _tower(config.encoder_config(), causal=False, cross=False)
    if config.architecture != "encoder":
        decoder = _tower(config, causal=True, cross=both)
    table = _table("embedding", config.vocab_size, width, tensor=config.vocab_size)
    return ModelShape(config, encoder, decoder, table, tuple(_head(config)))


def _tower(config: ModelConfig, *, causal: bool, cross: bool) -> TowerShape:
    positions, besides = config.positions, []
    if positions.kind == "learned":
        besides.append(_table("positions", positions.max_length + positions.offset, config.width))
    if config.embedding.types:
        besides.append(_table("types", config.embedding.types, config.width))
    if config.embedding.norm:
        besides += _norm(config, "embedding_norm", config.width)
    if positions.kind == "relative":
        heads = config.attention.heads
        besides.append(Weight("bias.buckets", positions.buckets * heads, tensor=heads))
    if config.norm.placement != "post":
        besides += _norm(config, "norm", config.width)
    return TowerShape(
        config, config.layers, causal, cross, tuple(_layer(config, cross)), tuple(besides)
    )


def _layer(config: ModelConfig, cross: bool) -> list[Weight]:
    width, mlp, sandwich = config.width, config.mlp, config.norm.placement == "sandwich"
    found = _norm(config, "attention_norm", width) + _attention(config, "attention")
    if sandwich:
        found += _norm(config, "attention_output_norm", width)
    if cross:
        found += _norm(config, "cross_norm", width) + _attention(config, "cross")
        found += _norm(config, "cross_output_norm", width) if sandwich else []
    if not config.parallel_residual:
        found += _norm(config, "mlp_norm", width)
    inner = {"tensor": mlp.width}
    for name in (("gate", "up") if mlp.gated else ("up",)):
        found += _linear(f"mlp.{name}", width, mlp.width, mlp.bias, inner, inner)
    found += _linear("mlp.down", mlp.width, width, mlp.bias, inner, {"fsdp": True})
    return found + (_norm(config, "mlp_output_norm", width) if sandwich else [])


def _attention(config: ModelConfig, name: str) -> list[Weight]:
    a, width = config.attention, config.width
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    of_heads, of_kv = {"tensor": a.heads}, {"tensor": a.kv_heads}
    into = {**of_heads, "dims": (width, a.heads, a.head_dim)}
    into_kv = {**of_kv, "dims": (width, a.kv_heads, a.head_dim)}
    out = {**of_heads, "dims": (a.heads, a.head_dim, width)}
    found = _linear(f"{name}.query", width, queries, a.bias, into, of_heads)
    found += _linear(f"{name}.key", width, keys, a.bias, into_kv, of_kv)
    found += _linear(f"{name}.value", width, keys, a.bias, into_kv, of_kv)
    found += _linear(f"{name}.output", queries, width, a.output_bias, out, {"fsdp": True})
    if a.qk_norm == "head":
        found += _norm(config, f"{name}.query_norm", a.head_dim)
        found += _norm(config, f"{name}.key_norm", a.head_dim)
    elif a.qk_norm == "all":
        found += _norm(config, f"{name}.query_norm", queries, **of_heads)
        found += _norm(config, f"{name}.key_norm", keys, **of_kv)
    return found


def _head(config: ModelConfig) -> list[Weight]:
    head, width, found = config.head, config.width, []
    if head.kind not in LANGUAGE_HEADS:
        if head.dense:
            found += _linear("dense", width, width, True, {}, {})
        if head.kind != "embedding":
            found += _linear("labels", width, head.labels, head.classifier_bias, {}, {})
        return found
    if head.kind == "masked_lm":
        found += _linear("dense", width, width, True, {}, {}) + _norm(config, "norm", width)
    of_vocab = {"tensor": config.vocab_size}
    if not config.tied:
        found.append(_kernel("output", width, config.vocab_size, **of_vocab))
    if head.bias:
        found.append(Weight("bias", config.vocab_size, **of_vocab))
    return found


def _kernel(
    name: str, inputs: int, outputs: int, tensor: int = 0, dims: tuple[int, ...] = ()
) -> Weight:
    return Weight(
        name, inputs * outputs, True, inputs, outputs, True, tensor, dims or (inputs, outputs)
    )


def _linear(
    name: str, inputs: int, outputs: int, bias: bool, kernel: dict, of_bias: dict
) -> list[Weight]:
    found = [_kernel(name, inputs, outputs, **kernel)]
    return [*found, Weight(f"{name}.bias", outputs, **of_bias)] if bias else found


def _norm(config: ModelConfig, name: str, size: int, tensor: int = 0) -> list[Weight]:
    if not config.norm.learned:
        return []
    parts = ("scale", "bias") if config.norm.kind == "layernorm" else ("scale",)
    return [Weight(f"{name}.{part}", size, tensor=tensor) for part in parts]


def _table(name: str, rows: int, width: int, tensor: int = 0) -> Weight:
    return Weight(
        f"{name}.table", rows * width, fsdp=True, tensor=tensor, dims=(rows, width)
    )
