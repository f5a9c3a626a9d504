"""GPT-2 and GPT-3: LayerNorm, learned positions, biases, GELU, tied embeddings.

Radford et al. 2019; Brown et al. 2020 (arXiv:2005.14165), table 2.1. GPT-3's alternating sparse
layers are dense here, as in every open reproduction.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS_NEW, EmbeddingDropout, Field, Fixed
from jaxllm.models.hf.weights import CONV1D, linear, norm, output_head, table, under
from jaxllm.nn.config import (
    AttentionConfig,
    HeadConfig,
    InitConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


def _gpt2(
    width: int, layers: int, heads: int, *, vocab_size: int = 50_257, length: int = 1024,
    head_dim: int = 0,
) -> ModelConfig:
    return ModelConfig(
        family="gpt2", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(heads=heads, head_dim=head_dim, bias=True, output_bias=True),
        positions=PositionConfig(kind="learned", max_length=length),
        norm=NormConfig("layernorm", 1e-5),
        mlp=MlpConfig(width=4 * width, activation="gelu_tanh", gated=False, bias=True),
        init=InitConfig(stddev=0.02, scale_residual=True),
    )


PRESETS = {
    "gpt2_debug": _gpt2(64, 2, 4, vocab_size=0, length=512),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2_medium": _gpt2(1024, 24, 16),
    "gpt2_large": _gpt2(1280, 36, 20),
    "gpt2_xl": _gpt2(1600, 48, 25),
    "gpt3_125m": _gpt2(768, 12, 12, length=2048),
    "gpt3_350m": _gpt2(1024, 24, 16, length=2048),
    "gpt3_760m": _gpt2(1536, 24, 16, length=2048),
    # the table's 24 heads of 128 would be wider than the model: it has 1.3B with 16
    "gpt3_1.3b": _gpt2(2048, 24, 16, length=2048),
    "gpt3_2.7b": _gpt2(2560, 32, 32, length=2048),
    "gpt3_6.7b": _gpt2(4096, 32, 32, length=2048),
    "gpt3_13b": _gpt2(5140, 40, 40, length=2048, head_dim=128),
    "gpt3_175b": _gpt2(12_288, 96, 96, length=2048),
}


class _Size:
    """n_embd and n_inner, which is four times it when null."""

    keys = ("n_embd", "n_inner")

    def read(self, theirs):
        """See Rule."""
        width = theirs["n_embd"]
        return {"width": width, "mlp.width": theirs.get("n_inner") or 4 * width}

    def write(self, ours):
        """See Rule."""
        inner = ours.mlp.width
        return {"n_embd": ours.width, "n_inner": None if inner == 4 * ours.width else inner}


_ATTENTION = ("attention.query", "attention.key", "attention.value")

FAMILY = Family(
    model_type="gpt2",
    architectures={
        "GPT2LMHeadModel": HeadConfig(),
        "GPT2ForSequenceClassification": HeadConfig(
            "sequence_classification", pooling="last", classifier_bias=False
        ),
        "GPT2ForTokenClassification": HeadConfig(
            "token_classification", pooling="none", dropout=0.1
        ),
        "GPT2Model": HeadConfig("embedding", pooling="last"),
    },
    base=_gpt2(0, 0, 0, vocab_size=0),
    config=(
        Field("vocab_size", "vocab_size"),
        _Size(),
        Field("n_layer", "layers"),
        Field("n_head", "attention.heads"),
        Field("n_positions", "positions.max_length", 1024),
        Field("activation_function", "mlp.activation", "gelu_new", ACTIVATIONS_NEW),
        Field("layer_norm_epsilon", "norm.eps", 1e-5),
        Field("initializer_range", "init.stddev", 0.02),
        EmbeddingDropout(0.1),
        Field("resid_pdrop", "dropout", 0.1),
        Field("attn_pdrop", "attention.dropout", 0.1),
        Field("tie_word_embeddings", "tied", True),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
        Fixed("reorder_and_upcast_attn", False),
        Fixed("add_cross_attention", False),
    ),
    weights=(
        *table("embedding", "transformer.wte"),
        *table("decoder.positions", "transformer.wpe"),
        *under(
            "decoder.layers.*.", "transformer.h.{}.",
            norm("attention_norm", "ln_1"),
            linear(_ATTENTION, "attn.c_attn", CONV1D),
            linear("attention.output", "attn.c_proj", CONV1D),
            norm("mlp_norm", "ln_2"),
            linear("mlp.up", "mlp.c_fc", CONV1D),
            linear("mlp.down", "mlp.c_proj", CONV1D),
        ),
        *norm("decoder.norm", "transformer.ln_f"),
        *output_head("lm_head", "score", "classifier"),
    ),
    prefix="transformer.",
    ignored=(r".*\.attn\.(masked_)?bias",),
    twins={"lm_head.weight": "transformer.wte.weight"},
    harmless=frozenset({
        "n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
        "summary_type", "summary_use_proj",
    }),
)
