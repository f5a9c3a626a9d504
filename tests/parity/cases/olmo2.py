"""OLMo 2: norms of the sublayers' outputs, and of all queries and all keys as one."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 60, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "gelu",
    "max_position_embeddings": 77, "initializer_range": 0.03, "attention_dropout": 0.1,
    "rms_norm_eps": 3e-3,
}
CASES = {
    "biased": Case(
        config="Olmo2Config", model="Olmo2ForCausalLM", gradients=True,
        options={
            **_SIZES, "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 37.0},
        },
    ),
    "tied_yarn": Case(
        config="Olmo2Config", model="Olmo2ForCausalLM",
        options={
            **_SIZES, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 50.0, "factor": 3.0,
                "original_max_position_embeddings": 32, "beta_fast": 0.8, "beta_slow": 0.2,
            },
        },
    ),
}
