"""Gemma 3, its text models: five local layers for each global one, QK-norm, two RoPE bases.

Gemma Team 2025 (arXiv:2503.19786), table 1. Soft-caps of Gemma 2 are gone.
"""

from __future__ import annotations

from jaxllm.core.errors import UserError
from jaxllm.models.config import ModelConfig
from jaxllm.models.families.gemma2 import CONFIG2, SANDWICH
from jaxllm.models.families.llama import HEADS, weights
from jaxllm.models.families.qwen3 import QK_NORMS
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Fixed, LayerTypes, Optional, Rope
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)

_PATTERN = ("local",) * 5 + ("global",)
_LOCAL = {"theta": 1e6, "local_theta": 10_000.0}
_LONG = PositionConfig(**_LOCAL, max_length=131_072, scaling="linear", scaling_factor=8.0)


def _gemma3(
    width: int, layers: int, heads: int, kv_heads: int, mlp: int, *, head_dim: int = 256,
    scale: float = 0.0, vocab_size: int = 262_208, positions: PositionConfig = _LONG,
    window: int = 1024,
) -> ModelConfig:
    return ModelConfig(
        family="gemma3", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(
            heads, kv_heads, head_dim, window=window, pattern=_PATTERN, scale=scale,
            qk_norm="head",
        ),
        positions=positions,
        norm=NormConfig("rmsnorm", 1e-6, placement="sandwich", unit_offset=True),
        mlp=MlpConfig(mlp, "gelu_tanh"), embedding=EmbeddingConfig(scaled=True),
    )


PRESETS = {
    "gemma3_debug": _gemma3(
        64, 7, 4, 2, 192, head_dim=32, vocab_size=0, window=24,
        positions=PositionConfig(**_LOCAL, max_length=512),
    ),
    "gemma3_1b": _gemma3(
        1152, 26, 4, 1, 6912, vocab_size=262_144, window=512,
        positions=PositionConfig(**_LOCAL, max_length=32_768),
    ),
    "gemma3_4b": _gemma3(2560, 34, 8, 4, 10_240),
    "gemma3_12b": _gemma3(3840, 48, 16, 8, 15_360),
    # its queries are scaled by width / heads
    "gemma3_27b": _gemma3(5376, 62, 32, 16, 21_504, head_dim=128, scale=168**-0.5),
}


class _Layers(LayerTypes):
    """layer_types; in older files every so many layers a global one."""

    def read(self, theirs):
        """See Rule."""
        if theirs.get("layer_types") is None:
            every = theirs.get("sliding_window_pattern", len(self.pattern))
            cycle = ["sliding_attention"] * (every - 1) + ["full_attention"]
            types = [cycle[i % every] for i in range(theirs["num_hidden_layers"])]
            theirs = {**theirs, "layer_types": types}
        return super().read(theirs)


class _Gemma3(Family):
    """The text model's config.json only; that of a model with a vision tower holds one inside."""

    def read(self, theirs):
        """See Family."""
        if theirs.get("model_type") in self.also:
            raise UserError(
                "config.json: model_type='gemma3' is a model with a vision tower, and of Gemma 3 "
                "only text models (gemma3_text) are implemented. Save its text model in a folder "
                "of its own with transformers: "
                "whole = Gemma3ForConditionalGeneration.from_pretrained(FOLDER); "
                "text = Gemma3ForCausalLM(whole.config.text_config); "
                "text.model = whole.model.language_model; text.tie_weights(); "
                "text.save_pretrained(TEXT_FOLDER)"
            )
        return super().read(theirs)


FAMILY = _Gemma3(
    model_type="gemma3_text", also=("gemma3",),
    architectures={
        "Gemma3ForCausalLM": HEADS["CausalLM"],
        "Gemma3TextForSequenceClassification": HEADS["SequenceClassification"],
        "Gemma3TextModel": HEADS["Model"],
    },
    base=_gemma3(0, 0, 0, 0, 0),
    config=(
        *CONFIG2, Rope(theta=1e6, local_theta=10_000.0),
        _Layers(_PATTERN, ("sliding_window_pattern",)),
        Field("max_position_embeddings", "positions.max_length", 131_072),
        Fixed("use_bidirectional_attention", False, also=(None,)),
        # transformers stores this one and never applies it
        Fixed("attn_logit_softcapping", None),
        Optional("final_logit_softcapping", "logit_softcap"),
    ),
    weights=weights(*SANDWICH, *QK_NORMS), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
    # the second stands beside layer_types always
    harmless=frozenset({"cache_implementation", "_sliding_window_pattern", "hidden_act"}),
)
