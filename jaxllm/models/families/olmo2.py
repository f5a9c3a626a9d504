"""OLMo 2: sublayers' outputs are normalised, not their inputs; so are all queries and all keys.

OLMo Team 2024 (arXiv:2501.00656).
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, LAYER, Biases, architectures, weights
from jaxllm.models.families.qwen3 import QK_NORMS
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Rope
from jaxllm.models.hf.weights import norm
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _olmo2(
    width: int, layers: int, heads: int, mlp: int, *, vocab_size: int = 100_352,
    length: int = 4096,
) -> ModelConfig:
    return ModelConfig(
        family="olmo2", vocab_size=vocab_size, width=width, layers=layers,
        attention=AttentionConfig(heads, qk_norm="all"),
        positions=PositionConfig(max_length=length, theta=500_000.0),
        norm=NormConfig("rmsnorm", 1e-6, placement="output"), mlp=MlpConfig(mlp),
    )


PRESETS = {
    "olmo2_debug": _olmo2(64, 2, 4, 192, vocab_size=0, length=512),
    "olmo2_7b": _olmo2(4096, 32, 32, 11_008),
    "olmo2_13b": _olmo2(5120, 40, 40, 13_824),
}

_NORMS = ("input_layernorm", "post_attention_layernorm")

FAMILY = Family(
    model_type="olmo2", architectures=architectures("Olmo2", tokens=False), base=_olmo2(0, 0, 0, 0),
    config=(
        *CONFIG, Rope(), Biases(),
        Field("rms_norm_eps", "norm.eps", 1e-5),
        Field("tie_word_embeddings", "tied", False),
    ),
    weights=weights(
        *(part for part in LAYER if not part[0].theirs.startswith(_NORMS)), *QK_NORMS,
        norm("attention_norm", "post_attention_layernorm"),
        norm("mlp_norm", "post_feedforward_layernorm"),
    ),
    prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
