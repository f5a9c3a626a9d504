"""Gemma 3: QK-norm, two RoPE bases, scaled global layers; patterns shorter and longer than layers.

transformers ignores attn_logit_softcapping here, so it stays null.
"""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 30, "intermediate_size": 44, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 14, "max_position_embeddings": 96,
    "initializer_range": 0.03, "rms_norm_eps": 3e-3, "attention_dropout": 0.1,
    "query_pre_attn_scalar": 57, "sliding_window": 7,
}
_LOCAL = {"rope_type": "default", "rope_theta": 13.0}
_ROPE = {
    "sliding_attention": _LOCAL,
    "full_attention": {"rope_type": "linear", "rope_theta": 210.0, "factor": 3.0},
}
CASES = {
    # the last repetition of the pattern is cut: two layers in the tail
    "tail": Case(
        config="Gemma3TextConfig", model="Gemma3ForCausalLM", gradients=True,
        options={
            **_SIZES, "num_hidden_layers": 8, "rope_parameters": _ROPE,
            "final_logit_softcapping": 2.3,
            "layer_types": [
                "full_attention" if i % 3 == 2 else "sliding_attention" for i in range(8)
            ],
        },
    ),
    # fewer layers than the pattern of six: all are local
    "short_untied": Case(
        config="Gemma3TextConfig", model="Gemma3ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 4, "rope_parameters": _ROPE, "attention_bias": True,
            "hidden_activation": "silu", "tie_word_embeddings": False,
        },
    ),
    "global_llama3": Case(
        config="Gemma3TextConfig", model="Gemma3ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": _LOCAL,
                "full_attention": {
                    "rope_type": "llama3", "rope_theta": 31.0, "factor": 4.0,
                    "low_freq_factor": 1.5, "high_freq_factor": 3.5,
                    "original_max_position_embeddings": 24,
                },
            },
        },
    ),
    "sequence_classification": Case(
        config="Gemma3TextConfig", model="Gemma3TextForSequenceClassification",
        options={**_SIZES, "num_hidden_layers": 3, "rope_parameters": _ROPE, "num_labels": 5},
    ),
}
