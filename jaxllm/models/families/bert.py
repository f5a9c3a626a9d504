"""BERT: an encoder with norms after each sum, learned positions, token types, a masked LM's head.

Devlin et al. 2019 (arXiv:1810.04805), section 3. The head for next-sentence prediction is left
out: folders that have it are read as masked LMs. So is, with any head that does not use it, the
pooler. A line says so.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import ACTIVATIONS, Field, Fixed
from jaxllm.models.hf.weights import for_heads, linear, norm, table, under, vector, when
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)

_MASKED_LM = HeadConfig("masked_lm", bias=True, dropout=0.1)


def _bert(
    width: int, layers: int, heads: int, *, vocab_size: int = 30_522, length: int = 512,
) -> ModelConfig:
    return ModelConfig(
        family="bert", architecture="encoder", vocab_size=vocab_size, width=width, layers=layers,
        attention=AttentionConfig(heads, bias=True, output_bias=True, dropout=0.1),
        positions=PositionConfig("learned", max_length=length),
        norm=NormConfig("layernorm", 1e-12, placement="post"),
        mlp=MlpConfig(4 * width, "gelu", gated=False, bias=True),
        embedding=EmbeddingConfig(norm=True, types=2), head=_MASKED_LM, tied=True, dropout=0.1,
    )


PRESETS = {
    "bert_debug": _bert(64, 2, 4, vocab_size=0),
    "bert_base_uncased": _bert(768, 12, 12),
    "bert_base_cased": _bert(768, 12, 12, vocab_size=28_996),
    "bert_large_uncased": _bert(1024, 24, 16),
    "bert_large_cased": _bert(1024, 24, 16, vocab_size=28_996),
}


class _Dropout:
    """hidden_dropout_prob, which is also the classifier's when classifier_dropout is null."""

    keys = ("hidden_dropout_prob", "classifier_dropout")

    def read(self, theirs):
        """See Rule."""
        rate, classifier = theirs.get("hidden_dropout_prob", 0.1), theirs.get("classifier_dropout")
        return {"dropout": rate, "head.dropout": rate if classifier is None else classifier}

    def write(self, ours):
        """See Rule."""
        rate, classifier = ours.dropout, ours.head.dropout
        return {
            "hidden_dropout_prob": rate,
            "classifier_dropout": None if classifier == rate else classifier,
        }


# what BERT and RoBERTa share
CONFIG = (
    Field("vocab_size", "vocab_size"),
    Field("hidden_size", "width"),
    Field("num_hidden_layers", "layers"),
    Field("num_attention_heads", "attention.heads"),
    Field("intermediate_size", "mlp.width"),
    Field("hidden_act", "mlp.activation", "gelu", ACTIVATIONS),
    Field("type_vocab_size", "embedding.types", 2),
    Field("initializer_range", "init.stddev", 0.02),
    Field("layer_norm_eps", "norm.eps", 1e-12),
    Field("attention_probs_dropout_prob", "attention.dropout", 0.1),
    _Dropout(),
    Field("tie_word_embeddings", "tied", True),
    Fixed("position_embedding_type", "absolute"),
    Fixed("is_decoder", False),
    Fixed("add_cross_attention", False),
)
LAYER = (
    linear("attention.query", "attention.self.query"),
    linear("attention.key", "attention.self.key"),
    linear("attention.value", "attention.self.value"),
    linear("attention.output", "attention.output.dense"),
    norm("attention_norm", "attention.output.LayerNorm"),
    linear("mlp.up", "intermediate.dense"),
    linear("mlp.down", "output.dense"),
    norm("mlp_norm", "output.LayerNorm"),
)
TEXTS = ("sequence_classification", "reward")
IGNORED = (r".*embeddings\.position_ids",)  # a buffer of older files
DROPPED = (r"(\w+\.)?pooler\.dense\.(weight|bias)",)  # the pooler where the head does not use it
RENAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def weights(name):
    """The weight table of the tower and its pooler."""
    return (
        *table("embedding", f"{name}.embeddings.word_embeddings"),
        *table("encoder.positions", f"{name}.embeddings.position_embeddings"),
        *table("encoder.types", f"{name}.embeddings.token_type_embeddings"),
        *norm("encoder.embedding_norm", f"{name}.embeddings.LayerNorm"),
        *under("encoder.layers.*.", f"{name}.encoder.layer.{{}}.", *LAYER),
        *for_heads(("embedding",), linear("head.dense", f"{name}.pooler.dense")),
    )


def language_head(dense, layer_norm, bias, decoder):
    """The weight table of a masked LM's head under these names.

    Untied, transformers adds the decoder's own bias and no other.
    """
    return for_heads(
        ("masked_lm",),
        linear("head.dense", dense), norm("head.norm", layer_norm),
        when("head.output.kernel", False, vector("head.bias", bias)),
        when("head.output.kernel", True, vector("head.bias", f"{decoder}.bias")),
        linear("head.output", decoder),
    )


FAMILY = Family(
    model_type="bert",
    architectures={
        "BertForMaskedLM": _MASKED_LM,
        "BertForPreTraining": _MASKED_LM,
        "BertForSequenceClassification": HeadConfig(
            "sequence_classification", pooling="first", dense=True
        ),
        "BertForTokenClassification": HeadConfig("token_classification", pooling="none"),
        "BertModel": HeadConfig("embedding", pooling="first", dense=True),
    },
    base=_bert(0, 0, 0),
    config=(*CONFIG, Field("max_position_embeddings", "positions.max_length", 512)),
    weights=(
        *weights("bert"),
        *language_head(
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias", "cls.predictions.decoder",
        ),
        *for_heads(TEXTS, linear("head.dense", "bert.pooler.dense")),
        *for_heads((*TEXTS, "token_classification"), linear("head.output", "classifier")),
    ),
    prefix="bert.",
    ignored=(*IGNORED, r"cls\.predictions\.bias"),  # which an untied decoder does not use
    dropped=(*DROPPED, r"cls\.seq_relationship\.(weight|bias)"),  # next-sentence prediction
    twins={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
    copies={"cls.predictions.bias": "cls.predictions.decoder.bias"},
    renames=RENAMES,
    # of the first files
    harmless=frozenset({
        "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type",
    }),
)
