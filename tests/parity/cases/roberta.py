"""RoBERTa: every head; positions that start after another padding id than usual."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 30, "num_hidden_layers": 3, "num_attention_heads": 5,
    "intermediate_size": 44, "hidden_act": "silu", "max_position_embeddings": 75,
    "pad_token_id": 3, "type_vocab_size": 3, "initializer_range": 0.03, "layer_norm_eps": 3e-3,
    "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.05,
}


def _case(model, gradients=False, **options):
    return Case(
        config="RobertaConfig", model=model, gradients=gradients, options={**_SIZES, **options}
    )


CASES = {
    "masked_lm": _case("RobertaForMaskedLM", gradients=True),
    "masked_lm_untied": _case("RobertaForMaskedLM", tie_word_embeddings=False),
    "sequence_classification": _case(
        "RobertaForSequenceClassification", num_labels=5, classifier_dropout=0.3
    ),
    "regression": _case("RobertaForSequenceClassification", num_labels=1),
    "token_classification": _case("RobertaForTokenClassification", num_labels=5),
    "embedding": _case("RobertaModel"),
}
