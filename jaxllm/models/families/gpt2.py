"""GPT-2: LayerNorm, learned positions, biases, GELU, tied embeddings (Radford et al. 2019)."""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.nn.config import AttentionConfig, InitConfig, MlpConfig, NormConfig, PositionConfig


def _gpt2(width: int, layers: int, heads: int, *, vocab_size: int = 50_257, length: int = 1024):
    return ModelConfig(
        family="gpt2", vocab_size=vocab_size, width=width, layers=layers, tied=True,
        attention=AttentionConfig(heads=heads, bias=True, output_bias=True),
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
}
