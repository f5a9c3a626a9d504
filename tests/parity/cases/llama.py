"""Llama: RoPE and each of its scalings, heads of a size of their own, biases, tied or not."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 36, "rms_norm_eps": 3e-3,
    "max_position_embeddings": 96, "initializer_range": 0.03, "attention_dropout": 0.1,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 23.0, "factor": 3.5}


def _case(model="LlamaForCausalLM", gradients=False, **options):
    return Case(
        config="LlamaConfig", model=model, gradients=gradients, options={**_SIZES, **options}
    )


CASES = {
    "llama3": _case(
        gradients=True,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 20.0, "factor": 4.0, "low_freq_factor": 1.5,
            "high_freq_factor": 3.5, "original_max_position_embeddings": 24,
        },
    ),
    "tied_biased": _case(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, num_attention_heads=6,
        num_key_value_heads=3, hidden_act="gelu",
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
    "linear": _case(rope_parameters=_LINEAR),
    "yarn": _case(
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "beta_fast": 3.0,
            "beta_slow": 0.5, "original_max_position_embeddings": 24,
        },
    ),
    "sequence_classification": _case(
        "LlamaForSequenceClassification", num_labels=5, rope_parameters=_LINEAR,
    ),
    "token_classification": _case(
        "LlamaForTokenClassification", num_labels=3, rope_parameters=_LINEAR,
    ),
    "embedding": _case("LlamaModel", rope_parameters=_LINEAR),
}
