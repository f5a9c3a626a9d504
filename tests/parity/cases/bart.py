"""BART: towers of different depth, heads and width, scaled embeddings, a bias on the logits."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "d_model": 24, "encoder_layers": 3, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 3, "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 52, "max_position_embeddings": 96, "activation_function": "gelu_new",
    "dropout": 0.2, "attention_dropout": 0.15, "activation_dropout": 0.12,
    "classifier_dropout": 0.05, "init_std": 0.03, "scale_embedding": True,
    "decoder_start_token_id": 4, "pad_token_id": 3, "eos_token_id": 5, "forced_eos_token_id": 5,
}
CASES = {
    "lm": Case(
        config="BartConfig", model="BartForConditionalGeneration", gradients=True, options=_SIZES,
    ),
    "classes": Case(
        config="BartConfig", model="BartForSequenceClassification",
        options={**_SIZES, "num_labels": 4, "activation_function": "relu"},
    ),
    "bare": Case(
        config="BartConfig", model="BartModel",
        options={**_SIZES, "scale_embedding": False, "decoder_layers": 4},
    ),
}
