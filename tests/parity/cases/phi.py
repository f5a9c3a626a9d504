"""Phi: parallel sublayers, RoPE on a share of each head, biases, normalised queries and keys."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 60, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": 77, "initializer_range": 0.03,
    "layer_norm_eps": 3e-3, "attention_dropout": 0.1, "resid_pdrop": 0.2, "embd_pdrop": 0.2,
}
CASES = {
    "plain": Case(
        config="PhiConfig", model="PhiForCausalLM", gradients=True,
        options={
            **_SIZES,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 37.0, "partial_rotary_factor": 0.4,
            },
        },
    ),
    "grouped_qk_norm_tied": Case(
        config="PhiConfig", model="PhiForCausalLM",
        options={
            **_SIZES, "num_key_value_heads": 2, "qk_layernorm": True, "hidden_act": "relu",
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear", "rope_theta": 23.0, "factor": 3.5,
                "partial_rotary_factor": 0.6,
            },
        },
    ),
    "sequence_classification": Case(
        config="PhiConfig", model="PhiForSequenceClassification",
        options={**_SIZES, "partial_rotary_factor": 0.8, "num_labels": 3, "pad_token_id": 5},
    ),
    "token_classification": Case(
        config="PhiConfig", model="PhiForTokenClassification",
        options={**_SIZES, "partial_rotary_factor": 0.8, "num_labels": 4, "pad_token_id": 5},
    ),
}
