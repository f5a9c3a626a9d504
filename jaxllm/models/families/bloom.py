"""BLOOM: ALiBi instead of positions, a norm after the embedding; and BloombergGPT's shape.

Scao et al. 2022 (arXiv:2211.05100), table 3; Wu et al. 2023 (arXiv:2303.17564).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import architectures
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Fixed
from jaxllm.models.hf.weights import Layout, linear, norm, output_head, table, under
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    InitConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


def _bloom(
    width: int, layers: int, heads: int, *, vocab_size: int = 250_880, length: int = 2048
) -> ModelConfig:
    return ModelConfig(
        family="bloom", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(heads, bias=True, output_bias=True),
        positions=PositionConfig("alibi", max_length=length),
        norm=NormConfig("layernorm", 1e-5), embedding=EmbeddingConfig(norm=True),
        mlp=MlpConfig(4 * width, "gelu_tanh", gated=False, bias=True),
        init=InitConfig(scale_residual=True),
    )


PRESETS = {
    "bloom_debug": _bloom(64, 2, 4, vocab_size=0, length=512),
    "bloom_560m": _bloom(1024, 24, 16),
    "bloom_1.1b": _bloom(1536, 24, 16),
    "bloom_1.7b": _bloom(2048, 24, 16),
    "bloom_3b": _bloom(2560, 30, 32),
    "bloom_7.1b": _bloom(4096, 30, 32),
    "bloom_176b": _bloom(14_336, 70, 112),
    "bloomberggpt_50b": _bloom(7680, 70, 40, vocab_size=131_072),
}


class _Width:
    """hidden_size, n_embed in older files; the MLP is four times as wide."""

    keys = ("hidden_size", "n_embed")

    def read(self, theirs):
        """See Rule."""
        width = theirs.get("hidden_size", theirs.get("n_embed", 64))
        return {"width": width, "mlp.width": 4 * width}

    def write(self, ours):
        """See Rule."""
        return {"hidden_size": ours.width}


class _Heads:
    """n_head, num_attention_heads in older files."""

    keys = ("n_head", "num_attention_heads")

    def read(self, theirs):
        """See Rule."""
        return {"attention.heads": theirs.get("n_head", theirs.get("num_attention_heads", 8))}

    def write(self, ours):
        """See Rule."""
        return {"n_head": ours.attention.heads}


FAMILY = Family(
    model_type="bloom",
    architectures=architectures("Bloom"),
    base=_bloom(0, 0, 0),
    config=(
        Field("vocab_size", "vocab_size", 250_880),
        _Width(), _Heads(),
        Field("n_layer", "layers"),
        Field("seq_length", "positions.max_length", 2048),
        Field("layer_norm_epsilon", "norm.eps", 1e-5),
        Field("initializer_range", "init.stddev", 0.02),
        Field("hidden_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention.dropout", 0.0),
        Field("tie_word_embeddings", "tied", True),
        Fixed("apply_residual_connection_post_layernorm", False),
        Fixed("n_inner", None),
        # true leaves out the biases of the projections that pretraining_tp cuts
        Fixed("slow_but_exact", False),
    ),
    weights=(
        *table("embedding", "transformer.word_embeddings"),
        *norm("decoder.embedding_norm", "transformer.word_embeddings_layernorm"),
        *under(
            "decoder.layers.*.", "transformer.h.{}.",
            norm("attention_norm", "input_layernorm"),
            linear(
                ("attention.query", "attention.key", "attention.value"),
                "self_attention.query_key_value", Layout(by_head=True),
            ),
            linear("attention.output", "self_attention.dense"),
            norm("mlp_norm", "post_attention_layernorm"),
            linear("mlp.up", "mlp.dense_h_to_4h"),
            linear("mlp.down", "mlp.dense_4h_to_h"),
        ),
        *norm("decoder.norm", "transformer.ln_f"),
        *output_head("lm_head", "score", "classifier"),
    ),
    prefix="transformer.",
    twins={"lm_head.weight": "transformer.word_embeddings.weight"},
    harmless=frozenset({
        "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion",
        "offset_alibi", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv",
        "unk_token_id",
    }),
)
