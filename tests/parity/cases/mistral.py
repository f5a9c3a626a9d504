"""Mistral: windows narrower than the row, heads wider than the width's share."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "hidden_act": "gelu",
    "max_position_embeddings": 77, "initializer_range": 0.03, "rms_norm_eps": 3e-3,
    "attention_dropout": 0.1,
}
CASES = {
    "window": Case(
        config="MistralConfig", model="MistralForCausalLM", gradients=True,
        options={
            **_SIZES, "sliding_window": 5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 37.0},
        },
    ),
    "tied_linear": Case(
        config="MistralConfig", model="MistralForCausalLM",
        options={
            **_SIZES, "sliding_window": None, "tie_word_embeddings": True, "hidden_act": "relu",
            "rope_parameters": {"rope_type": "linear", "rope_theta": 23.0, "factor": 3.5},
        },
    ),
}
