"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases.

Touvron et al. 2023 (arXiv:2302.13971, arXiv:2307.09288); Llama Team 2024 (arXiv:2407.21783).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS, Field, Fixed, Optional, Rope
from jaxllm.models.hf.weights import linear, norm, output_head, table, under
from jaxllm.nn.config import AttentionConfig, HeadConfig, MlpConfig, NormConfig, PositionConfig

_LLAMA3_ROPE = {"theta": 500_000.0, "max_length": 131_072, "scaling": "llama3"}


def _llama(
    vocab_size: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int,
    positions: PositionConfig, *, eps: float = 1e-5, tied: bool = False, head_dim: int = 0,
) -> ModelConfig:
    return ModelConfig(
        family="llama", vocab_size=vocab_size, width=width, layers=layers, tied=tied,
        attention=AttentionConfig(heads=heads, kv_heads=kv_heads, head_dim=head_dim),
        positions=positions, norm=NormConfig("rmsnorm", eps),
        mlp=MlpConfig(width=mlp, activation="silu", gated=True),
    )


PRESETS = {
    # for a laptop: the vocabulary is the tokenizer's
    "llama_debug": _llama(0, 64, 2, 4, 2, 192, PositionConfig(max_length=512)),
    "llama_tiny": _llama(0, 192, 4, 6, 3, 512, PositionConfig(max_length=1024)),
    # the 20.6M-parameter shape of the CPU benchmark (docs/performance.md)
    "llama_21m": _llama(32_000, 256, 4, 4, 4, 1024, PositionConfig(max_length=2048)),
    "llama_65b": _llama(32_000, 8192, 80, 64, 64, 22_016, PositionConfig(max_length=2048)),
    "llama2_7b": _llama(32_000, 4096, 32, 32, 32, 11_008, PositionConfig(max_length=4096)),
    "llama2_13b": _llama(32_000, 5120, 40, 40, 40, 13_824, PositionConfig(max_length=4096)),
    "llama2_70b": _llama(32_000, 8192, 80, 64, 8, 28_672, PositionConfig(max_length=4096)),
    "llama3_8b": _llama(
        128_256, 4096, 32, 32, 8, 14_336, PositionConfig(max_length=8192, theta=500_000.0)
    ),
    "llama3.1_8b": _llama(128_256, 4096, 32, 32, 8, 14_336, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.1_70b": _llama(128_256, 8192, 80, 64, 8, 28_672, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.1_405b": _llama(128_256, 16_384, 126, 128, 8, 53_248, PositionConfig(**_LLAMA3_ROPE)),
    "llama3.2_1b": _llama(
        128_256, 2048, 16, 32, 8, 8192,
        PositionConfig(**_LLAMA3_ROPE, scaling_factor=32.0), tied=True,
    ),
    "llama3.2_3b": _llama(
        128_256, 3072, 28, 24, 8, 8192,
        PositionConfig(**_LLAMA3_ROPE, scaling_factor=32.0), tied=True,
    ),
}


class Biases:
    """attention_bias: on queries, keys, values and the output alike."""

    keys = ("attention_bias",)

    def read(self, theirs):
        """See Rule."""
        bias = theirs.get("attention_bias", False)
        return {"attention.bias": bias, "attention.output_bias": bias}

    def write(self, ours):
        """See Rule."""
        return {"attention_bias": ours.attention.bias}


# what the families after Llama share with it
CONFIG = (
    Field("vocab_size", "vocab_size"),
    Field("hidden_size", "width"),
    Field("num_hidden_layers", "layers"),
    Field("num_attention_heads", "attention.heads"),
    Optional("num_key_value_heads", "attention.kv_heads"),
    Field("intermediate_size", "mlp.width"),
    Field("hidden_act", "mlp.activation", "silu", ACTIVATIONS),
    Field("max_position_embeddings", "positions.max_length", 2048),
    Field("initializer_range", "init.stddev", 0.02),
    Field("attention_dropout", "attention.dropout", 0.0),
)
LAYER = (
    norm("attention_norm", "input_layernorm"),
    linear("attention.query", "self_attn.q_proj"),
    linear("attention.key", "self_attn.k_proj"),
    linear("attention.value", "self_attn.v_proj"),
    linear("attention.output", "self_attn.o_proj"),
    norm("mlp_norm", "post_attention_layernorm"),
    linear("mlp.gate", "mlp.gate_proj"),
    linear("mlp.up", "mlp.up_proj"),
    linear("mlp.down", "mlp.down_proj"),
)


def weights(*layer):
    """The weight table of a model whose layers hold these tables."""
    return (
        *table("embedding", "model.embed_tokens"),
        *under("decoder.layers.*.", "model.layers.{}.", *layer),
        *norm("decoder.norm", "model.norm"),
        *output_head("lm_head", "score", "score"),
    )


HEADS = {
    "CausalLM": HeadConfig(),
    "SequenceClassification": HeadConfig(
        "sequence_classification", pooling="last", classifier_bias=False
    ),
    "TokenClassification": HeadConfig("token_classification", pooling="none", dropout=0.1),
    "Model": HeadConfig("embedding", pooling="last"),
}


def architectures(name: str, *, tokens: bool = True) -> dict[str, HeadConfig]:
    """transformers' classes of a decoder, such as LlamaForCausalLM and LlamaModel.

    `tokens` says whether it has one that classifies tokens.
    """
    return {
        name + kind if kind == "Model" else f"{name}For{kind}": head
        for kind, head in HEADS.items() if tokens or kind != "TokenClassification"
    }


FAMILY = Family(
    model_type="llama", architectures=architectures("Llama"), base=_llama(
        0, 0, 0, 0, 0, 0, PositionConfig()
    ),
    config=(
        *CONFIG, Biases(), Rope(),
        Optional("head_dim", "attention.head_dim"),
        Field("rms_norm_eps", "norm.eps", 1e-6),
        Field("mlp_bias", "mlp.bias", False),
        Field("tie_word_embeddings", "tied", False),
        Fixed("pretraining_tp", 1),
    ),
    weights=weights(*LAYER), prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
