"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.

Yang et al. 2024 (arXiv:2407.10671); Qwen Team 2024 (arXiv:2412.15115), table 1.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.llama import CONFIG, LAYER, architectures, weights
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import Field, Fixed, LayerTypes, Rope, unsupported
from jaxllm.nn.config import AttentionConfig, MlpConfig, NormConfig, PositionConfig


def _qwen2(
    width: int, layers: int, heads: int, kv_heads: int, mlp: int, *, vocab_size: int = 152_064,
    tied: bool = False, length: int = 131_072, eps: float = 1e-6,
) -> ModelConfig:
    return ModelConfig(
        family="qwen2", vocab_size=vocab_size, width=width, layers=layers, tied=tied,
        attention=AttentionConfig(heads, kv_heads, bias=True, pattern=("global",)),
        positions=PositionConfig(max_length=length, theta=1e6),
        norm=NormConfig("rmsnorm", eps), mlp=MlpConfig(mlp),
    )


_SMALL = {"vocab_size": 151_936, "tied": True}
PRESETS = {
    "qwen2_debug": _qwen2(64, 2, 4, 2, 192, vocab_size=0, length=512),
    # the base models; the instructed ones have a context of 32,768 and eps of 1e-6
    "qwen2.5_0.5b": _qwen2(896, 24, 14, 2, 4864, length=32_768, **_SMALL),
    "qwen2.5_1.5b": _qwen2(1536, 28, 12, 2, 8960, **_SMALL),
    "qwen2.5_3b": _qwen2(2048, 36, 16, 2, 11_008, length=32_768, **_SMALL),
    "qwen2.5_7b": _qwen2(3584, 28, 28, 4, 18_944),
    "qwen2.5_14b": _qwen2(5120, 48, 40, 8, 13_824, eps=1e-5),
    "qwen2.5_32b": _qwen2(5120, 64, 40, 8, 27_648, eps=1e-5),
    "qwen2.5_72b": _qwen2(8192, 80, 64, 8, 29_568, eps=1e-5),
}


class Windows(LayerTypes):
    """layer_types; in older files, a window in all layers after the first `max_window_layers`."""

    def read(self, theirs):
        """See Rule."""
        layers, types = theirs["num_hidden_layers"], theirs.get("layer_types")
        used = theirs.get("use_sliding_window", False)
        window = theirs.get("sliding_window", self.window) if used else None
        if types is None:
            first = theirs.get("max_window_layers", 28) if window else layers
            types = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
        if not window and "sliding_attention" in types:
            raise unsupported("use_sliding_window", used, [True])
        return super().read({"layer_types": types, "sliding_window": window})

    def write(self, ours):
        """See Rule."""
        theirs = super().write(ours)
        types = theirs["layer_types"]
        first = types.index("sliding_attention") if "sliding_attention" in types else ours.layers
        return {
            **theirs, "use_sliding_window": bool(ours.attention.window), "max_window_layers": first
        }


WINDOWS = Windows(("global",), ("use_sliding_window", "max_window_layers"))

FAMILY = Family(
    model_type="qwen2", architectures=architectures("Qwen2"),
    base=_qwen2(0, 0, 0, 0, 0),
    config=(
        *CONFIG, Rope(), WINDOWS,
        Field("rms_norm_eps", "norm.eps", 1e-6),
        Field("tie_word_embeddings", "tied", False),
        Fixed("use_mrope", False),
    ),
    weights=weights(*LAYER), prefix="model.",
    twins={"lm_head.weight": "model.embed_tokens.weight"},
)
