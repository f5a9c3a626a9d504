"""OLMo: norms that learn nothing; clipped queries, keys and values.

Nothing scales the norms' outputs down: at a width of 60 the stream grows to 65, and transformers'
own float32 is 2e-4 off its float64. Hence the narrow model.
"""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "gelu",
    "max_position_embeddings": 77, "initializer_range": 0.03, "attention_dropout": 0.1,
}
CASES = {
    "clipped": Case(
        config="OlmoConfig", model="OlmoForCausalLM", gradients=True,
        options={
            **_SIZES, "clip_qkv": 0.7, "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 37.0},
        },
    ),
    "tied_linear": Case(
        config="OlmoConfig", model="OlmoForCausalLM",
        options={
            **_SIZES, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 23.0, "factor": 3.5},
        },
    ),
}
