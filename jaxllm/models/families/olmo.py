"""OLMo: Llama with LayerNorm that learns nothing, and clipped queries, keys and values.

Groeneveld et al. 2024 (arXiv:2402.00838).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, LAYER, Biases, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Optional, Rope
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _olmo(
    width: int, layers: int, heads: int, mlp: int, *, vocab_size: int = 50_304,
    tied: bool = False, length: int = 2048,
) -> ModelConfig:
    return ModelConfig(
        family="olmo", vocab_size=vocab_size, width=width, layers=layers, tied=tied,
        attention=AttentionConfig(heads), positions=PositionConfig(max_length=length),
        norm=NormConfig("layernorm", 1e-5, learned=False), mlp=MlpConfig(mlp),
    )


PRESETS = {
    "olmo_debug": _olmo(64, 2, 4, 192, vocab_size=0, length=512),
    "olmo_1b": _olmo(2048, 16, 16, 8192, tied=True),
    "olmo_7b": _olmo(4096, 32, 32, 11_008),
}

FAMILY = Family(
    model_type="olmo", architectures=architectures("Olmo", tokens=False), base=_olmo(0, 0, 0, 0),
    config=(
        *CONFIG, Rope(), Biases(),
        Optional("clip_qkv", "attention.clip", 0.0),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=weights(*LAYER), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
    harmless=frozenset({"pretraining_tp"}),
)
