"""Phi-3: fused projections, a window narrower than the row, LongRoPE on both sides."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 60, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "gelu",
    "initializer_range": 0.03, "rms_norm_eps": 3e-3, "attention_dropout": 0.1,
    "resid_pdrop": 0.2, "embd_pdrop": 0.2, "pad_token_id": 3,
}
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 37.0, "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.1], "long_factor": [1.2, 2.0, 3.1, 4.7, 6.3],
}


def _longrope(original: int, **more) -> Case:
    rope = {**_LONGROPE, "original_max_position_embeddings": original, **more}
    return Case(
        config="Phi3Config", model="Phi3ForCausalLM",
        options={
            **_SIZES, "max_position_embeddings": 90, "rope_parameters": rope,
            "original_max_position_embeddings": original,
        },
    )


CASES = {
    "window": Case(
        config="Phi3Config", model="Phi3ForCausalLM", gradients=True,
        options={
            **_SIZES, "max_position_embeddings": 77, "sliding_window": 5,
            "original_max_position_embeddings": 33,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 29.0, "partial_rotary_factor": 0.6,
            },
        },
    ),
    "tied": Case(
        config="Phi3Config", model="Phi3ForCausalLM",
        options={
            **_SIZES, "max_position_embeddings": 77, "tie_word_embeddings": True,
            "original_max_position_embeddings": 33,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 29.0, "partial_rotary_factor": 1.0,
            },
        },
    ),
    # rows of up to 80 tokens stay within the original context, and rows of more than 9 do not
    "longrope_short": _longrope(80),
    "longrope_long": _longrope(9),
    "longrope_attention_factor": _longrope(9, attention_factor=1.6),
}
