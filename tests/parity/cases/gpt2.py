"""GPT-2: learned positions, biases everywhere, an MLP of a width of its own, tied or not."""

from __future__ import annotations

from tests.parity.cases import Case

_SIZES = {
    "vocab_size": 59, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_inner": 52, "n_positions": 37,
    "layer_norm_epsilon": 2e-3, "initializer_range": 0.03, "embd_pdrop": 0.2, "resid_pdrop": 0.2,
    "attn_pdrop": 0.05,
}


def _case(model="GPT2LMHeadModel", gradients=False, **options):
    return Case(
        config="GPT2Config", model=model, gradients=gradients, options={**_SIZES, **options}
    )


CASES = {
    "tied": _case(gradients=True),
    "untied_relu": _case(tie_word_embeddings=False, activation_function="relu", n_inner=40),
    "plain_inner_gelu": _case(n_inner=None, activation_function="gelu", n_layer=2),
    "sequence_classification": _case("GPT2ForSequenceClassification", num_labels=5),
    "token_classification": _case("GPT2ForTokenClassification", num_labels=3),
    "embedding": _case("GPT2Model"),
}
