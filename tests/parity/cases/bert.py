"""BERT: every head; token types, an epsilon and an activation of its own, tied and untied."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 67, "hidden_size": 30, "num_hidden_layers": 3, "num_attention_heads": 5,
    "intermediate_size": 44, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 71,
    "type_vocab_size": 3, "initializer_range": 0.03, "layer_norm_eps": 3e-3,
    "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.05,
}


def _case(model, gradients=False, **options):
    return Case(
        config="BertConfig", model=model, gradients=gradients, options={**_SIZES, **options}
    )


CASES = {
    "masked_lm": _case("BertForMaskedLM", gradients=True),
    "masked_lm_untied": _case("BertForMaskedLM", tie_word_embeddings=False, hidden_act="relu"),
    "sequence_classification": _case(
        "BertForSequenceClassification", num_labels=5, classifier_dropout=0.3
    ),
    "regression": _case("BertForSequenceClassification", num_labels=1),
    "token_classification": _case("BertForTokenClassification", num_labels=5),
    "embedding": _case("BertModel"),
}
