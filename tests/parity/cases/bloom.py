"""BLOOM: ALiBi with a number of heads that is no power of two, queries to values by head.

transformers takes ALiBi from its [batch, length] mask: a packed row compares with each of its
documents alone.
"""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 61, "hidden_size": 60, "n_layer": 3, "layer_norm_epsilon": 3e-3,
    "initializer_range": 0.03, "hidden_dropout": 0.2, "attention_dropout": 0.1,
}
CASES = {
    "tied": Case(
        config="BloomConfig", model="BloomForCausalLM", gradients=True,
        options={**_SIZES, "n_head": 6},
    ),
    "untied": Case(
        config="BloomConfig", model="BloomForCausalLM",
        options={**_SIZES, "n_head": 4, "tie_word_embeddings": False, "pretraining_tp": 2},
    ),
    "sequence_classification": Case(
        config="BloomConfig", model="BloomForSequenceClassification",
        options={**_SIZES, "n_head": 5, "num_labels": 3, "pad_token_id": 5},
    ),
    "token_classification": Case(
        config="BloomConfig", model="BloomForTokenClassification",
        options={**_SIZES, "n_head": 5, "num_labels": 4, "pad_token_id": 5},
    ),
}
