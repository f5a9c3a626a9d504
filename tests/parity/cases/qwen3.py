"""Qwen3: normalised queries and keys, heads of a size of their own, biases, windows."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 71, "hidden_size": 24, "intermediate_size": 36, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 14, "hidden_act": "gelu",
    "max_position_embeddings": 96, "initializer_range": 0.03, "rms_norm_eps": 3e-3,
    "attention_dropout": 0.1,
}
CASES = {
    "biased": Case(
        config="Qwen3Config", model="Qwen3ForCausalLM", gradients=True,
        options={
            **_SIZES, "num_hidden_layers": 3, "attention_bias": True, "max_window_layers": 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 31.0},
        },
    ),
    "tied_windows": Case(
        config="Qwen3Config", model="Qwen3ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 6,
            "max_window_layers": 2, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 50.0, "factor": 3.0,
                "original_max_position_embeddings": 32, "beta_fast": 0.8, "beta_slow": 0.2,
            },
        },
    ),
}
