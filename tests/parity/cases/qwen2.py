"""Qwen2: biases on queries, keys and values; windows in some layers; YaRN."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 24, "intermediate_size": 44, "num_attention_heads": 6,
    "num_key_value_heads": 3, "hidden_act": "gelu", "max_position_embeddings": 96,
    "initializer_range": 0.03, "rms_norm_eps": 3e-3, "attention_dropout": 0.1,
}
CASES = {
    "windows_in_last_layers": Case(
        config="Qwen2Config", model="Qwen2ForCausalLM", gradients=True,
        options={
            **_SIZES, "num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 7,
            "max_window_layers": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 41.0},
        },
    ),
    "layer_types_tied": Case(
        config="Qwen2Config", model="Qwen2ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 5, "use_sliding_window": True, "sliding_window": 4,
            "layer_types": [
                "full_attention", "sliding_attention", "full_attention", "sliding_attention",
                "full_attention",
            ],
            "max_window_layers": 1, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 29.0, "factor": 2.5},
        },
    ),
    "yarn": Case(
        config="Qwen2Config", model="Qwen2ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 2, "hidden_size": 48, "max_window_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
                "original_max_position_embeddings": 24, "beta_fast": 0.8, "beta_slow": 0.2,
            },
        },
    ),
    "yarn_attention_factor": Case(
        config="Qwen2Config", model="Qwen2ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 2, "hidden_size": 48, "max_window_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
                "original_max_position_embeddings": 24, "beta_fast": 0.8, "beta_slow": 0.2,
                "attention_factor": 1.7,
            },
        },
    ),
}
