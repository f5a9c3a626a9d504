"""Gemma 2: an odd window in every other layer, both soft-caps, a query scale of its own."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 30, "intermediate_size": 44, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 14, "max_position_embeddings": 96,
    "initializer_range": 0.03, "rms_norm_eps": 3e-3, "attention_dropout": 0.1,
    "query_pre_attn_scalar": 11, "sliding_window": 7,
    "rope_parameters": {"rope_type": "default", "rope_theta": 31.0},
}
CASES = {
    "caps": Case(
        config="Gemma2Config", model="Gemma2ForCausalLM", gradients=True,
        options={
            **_SIZES, "num_hidden_layers": 5, "attn_logit_softcapping": 1.7,
            "final_logit_softcapping": 2.3,
        },
    ),
    "untied_global_first": Case(
        config="Gemma2Config", model="Gemma2ForCausalLM",
        options={
            **_SIZES, "num_hidden_layers": 4, "attn_logit_softcapping": None,
            "final_logit_softcapping": None, "attention_bias": True, "hidden_activation": "gelu",
            "tie_word_embeddings": False,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention",
                            "full_attention"],
        },
    ),
    "sequence_classification": Case(
        config="Gemma2Config", model="Gemma2ForSequenceClassification",
        options={**_SIZES, "num_hidden_layers": 2, "attn_logit_softcapping": 1.7,
                 "num_labels": 5},
    ),
    "token_classification": Case(
        config="Gemma2Config", model="Gemma2ForTokenClassification",
        options={**_SIZES, "num_hidden_layers": 2, "attn_logit_softcapping": 1.7,
                 "num_labels": 5},
    ),
}
