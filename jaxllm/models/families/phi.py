"""Phi-1.5 and Phi-2: attention and MLP in parallel, RoPE on a part of each head, biases everywhere.

Li et al. 2023 (arXiv:2309.05463); Microsoft 2023 for Phi-2.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, architectures
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS_NEW, EmbeddingDropout, Field, Rope
from jaxllm.models.hf.weights import linear, norm, output_head, table, under, vector
from jaxllm.nn.config import AttentionConfig, HeadConfig, MlpConfig, NormConfig, PositionConfig


def _phi(
    width: int, layers: int, heads: int, mlp: int, *, rotary: float, vocab_size: int = 51_200,
    length: int = 2048,
) -> ModelConfig:
    return ModelConfig(
        family="phi", vocab_size=vocab_size, width=width, layers=layers, parallel_residual=True,
        attention=AttentionConfig(heads, bias=True, output_bias=True),
        positions=PositionConfig(max_length=length, rotary_fraction=rotary),
        norm=NormConfig("layernorm", 1e-5),
        mlp=MlpConfig(mlp, "gelu_tanh", gated=False, bias=True), head=HeadConfig(bias=True),
    )


PRESETS = {
    "phi_debug": _phi(64, 2, 4, 192, rotary=0.5, vocab_size=0, length=512),
    "phi_1.5": _phi(2048, 24, 32, 8192, rotary=0.5),
    "phi_2": _phi(2560, 32, 32, 10_240, rotary=0.4),
}

_HEADS = architectures("Phi")

FAMILY = Family(
    model_type="phi",
    architectures={
        **_HEADS, "PhiForCausalLM": HeadConfig(bias=True),
    },
    base=_phi(0, 0, 0, 0, rotary=0.5),
    config=(
        *(rule for rule in CONFIG if rule.key != "hidden_act"),
        Field("hidden_act", "mlp.activation", "gelu_new", ACTIVATIONS_NEW),
        Rope(fraction=0.5),
        Field("layer_norm_eps", "norm.eps", 1e-5),
        EmbeddingDropout(0.0),
        Field("resid_pdrop", "dropout", 0.0),
        Field("qk_layernorm", "attention.qk_norm", False, {False: "none", True: "head"}),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=(
        *table("embedding", "model.embed_tokens"),
        *under(
            "decoder.layers.*.", "model.layers.{}.",
            norm("attention_norm", "input_layernorm"),
            linear("attention.query", "self_attn.q_proj"),
            linear("attention.key", "self_attn.k_proj"),
            linear("attention.value", "self_attn.v_proj"),
            linear("attention.output", "self_attn.dense"),
            norm("attention.query_norm", "self_attn.q_layernorm"),
            norm("attention.key_norm", "self_attn.k_layernorm"),
            linear("mlp.up", "mlp.fc1"),
            linear("mlp.down", "mlp.fc2"),
        ),
        *norm("decoder.norm", "model.final_layernorm"),
        *output_head("lm_head", "score", "score"),
        *vector("head.bias", "lm_head.bias"),
    ),
    prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
