"""BART: encoder-decoder, normalised after each sublayer and embedding, learned positions, GELU.

Lewis et al. 2020 (arXiv:1910.13461).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS_NEW, Field, Fixed
from jaxllm.models.hf.weights import Layout, linear, norm, table, under, vector, when
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    InitConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)

_HEAD = HeadConfig(bias=True)  # final_logits_bias


def _bart(
    width: int, layers: int, heads: int, *, vocab_size: int = 50_265, length: int = 1024
) -> ModelConfig:
    return ModelConfig(
        family="bart", architecture="encoder_decoder", vocab_size=vocab_size, width=width,
        layers=layers, tied=True,
        attention=AttentionConfig(heads=heads, bias=True, output_bias=True),
        positions=PositionConfig(kind="learned", max_length=length, offset=2),
        norm=NormConfig("layernorm", 1e-5, "post"),
        mlp=MlpConfig(width=4 * width, activation="gelu", gated=False, bias=True),
        embedding=EmbeddingConfig(norm=True), head=_HEAD, init=InitConfig(stddev=0.02),
    )


PRESETS = {
    "bart_debug": _bart(64, 2, 4, vocab_size=0, length=512),
    "bart_base": _bart(768, 6, 12),
    "bart_large": _bart(1024, 12, 16),
}


def _tower(name: str, cross: bool):
    def attention(ours: str, theirs: str):
        return tuple(
            entry for side in ("query", "key", "value")
            for entry in linear(f"{ours}.{side}", f"{theirs}.{side[0]}_proj")
        ) + linear(f"{ours}.output", f"{theirs}.out_proj")

    layer = (
        attention("attention", "self_attn"),
        norm("attention_norm", "self_attn_layer_norm"),
        attention("cross", "encoder_attn") if cross else (),
        norm("cross_norm", "encoder_attn_layer_norm") if cross else (),
        linear("mlp.up", "fc1"),
        linear("mlp.down", "fc2"),
        norm("mlp_norm", "final_layer_norm"),
    )
    return (
        *table(f"{name}.positions", f"model.{name}.embed_positions"),
        *norm(f"{name}.embedding_norm", f"model.{name}.layernorm_embedding"),
        *under(f"{name}.layers.*.", f"model.{name}.layers.{{}}.", *layer),
    )


FAMILY = Family(
    model_type="bart",
    architectures={
        "BartForConditionalGeneration": _HEAD,
        # The text is the input of both towers; the decoder's state at its end stands for it.
        "BartForSequenceClassification": HeadConfig(
            "sequence_classification", pooling="last", dense=True
        ),
        "BartModel": HeadConfig("embedding", pooling="last"),
    },
    base=_bart(0, 0, 0),
    config=(
        Field("vocab_size", "vocab_size", 50_265),
        Field("d_model", "width", 1024),
        Field("encoder_layers", "encoder.layers", 12),
        Field("encoder_attention_heads", "encoder.heads", 16),
        Field("encoder_ffn_dim", "encoder.mlp_width", 4096),
        Field("decoder_layers", "layers", 12),
        Field("decoder_attention_heads", "attention.heads", 16),
        Field("decoder_ffn_dim", "mlp.width", 4096),
        Field("activation_function", "mlp.activation", "gelu", ACTIVATIONS_NEW),
        Field("max_position_embeddings", "positions.max_length", 1024),
        Field("scale_embedding", "embedding.scaled", False),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention.dropout", 0.0),
        Field("activation_dropout", "mlp.dropout", 0.0),
        Field("classifier_dropout", "head.dropout", 0.0),
        Field("init_std", "init.stddev", 0.02),
        Field("tie_word_embeddings", "tied", True),
        Fixed("encoder_layerdrop", 0.0),
        Fixed("decoder_layerdrop", 0.0),
        Fixed("is_encoder_decoder", True),
        Fixed("is_decoder", False),
        # of the first files
        Fixed("normalize_before", False),
        Fixed("normalize_embedding", True),
        Fixed("add_final_layer_norm", False),
        Fixed("add_bias_logits", False),
        Fixed("static_position_embeddings", False),
        Fixed("extra_pos_embeddings", 2),
    ),
    weights=(
        *table("embedding", "model.shared"), *_tower("encoder", False), *_tower("decoder", True),
        *when("head.dense.kernel", False, linear("head.output", "lm_head")),
        *vector("head.bias", "final_logits_bias", Layout(row=True)),
        *linear("head.dense", "classification_head.dense"),
        *when(
            "head.dense.kernel", True, linear("head.output", "classification_head.out_proj")
        ),
    ),
    prefix="model.",
    ignored=(r"(model\.)?(encoder|decoder)\.version",),
    twins={
        "lm_head.weight": "model.shared.weight",
        **{
            f"{prefix}{tower}.embed_tokens.weight": f"{prefix}shared.weight"
            for prefix in ("model.", "") for tower in ("encoder", "decoder")
        },
    },
    harmless=frozenset({
        "classif_dropout", "num_hidden_layers", "output_past", "force_bos_token_to_be_generated",
    }),
)
