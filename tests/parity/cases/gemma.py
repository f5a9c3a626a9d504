"""Gemma: scaled embeddings, norms of 1 + scale, heads of a size of their own; legacy "gelu"."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 30, "num_hidden_layers": 2, "intermediate_size": 44,
    "num_attention_heads": 6, "head_dim": 14, "max_position_embeddings": 96,
    "initializer_range": 0.03, "rms_norm_eps": 3e-3, "attention_dropout": 0.1,
}
_ROPE = {
    "rope_type": "llama3", "rope_theta": 31.0, "factor": 4.0, "low_freq_factor": 1.5,
    "high_freq_factor": 3.5, "original_max_position_embeddings": 24,
}
CASES = {
    "one_key": Case(
        config="GemmaConfig", model="GemmaForCausalLM", gradients=True,
        options={
            **_SIZES, "num_key_value_heads": 1, "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "default", "rope_theta": 31.0},
        },
    ),
    "untied_biased": Case(
        config="GemmaConfig", model="GemmaForCausalLM",
        options={
            **_SIZES, "num_key_value_heads": 3, "hidden_act": "silu", "attention_bias": True,
            "tie_word_embeddings": False, "rope_parameters": _ROPE,
        },
    ),
    "sequence_classification": Case(
        config="GemmaConfig", model="GemmaForSequenceClassification",
        options={**_SIZES, "num_key_value_heads": 2, "num_labels": 5},
    ),
    "token_classification": Case(
        config="GemmaConfig", model="GemmaForTokenClassification",
        options={**_SIZES, "num_key_value_heads": 2, "num_labels": 5},
    ),
}
