"""RoBERTa: BERT trained longer; its positions start after the padding token's id.

Liu et al. 2019 (arXiv:1907.11692), section 2 and table 9. In training, transformers drops out the
input of the classifier's dense layer too; that is left out.
"""

from __future__ import annotations

import dataclasses

from jaxllm.models.config import ModelConfig
from jaxllm.models.families.bert import (
    CONFIG,
    DROPPED,
    IGNORED,
    RENAMES,
    TEXTS,
    language_head,
    weights,
)
from jaxllm.models.families.bert import PRESETS as BERT
from jaxllm.models.hf.family import Family
from jaxllm.models.hf.fields import unsupported
from jaxllm.models.hf.weights import for_heads, linear
from jaxllm.nn.config import EmbeddingConfig, HeadConfig, PositionConfig

# the masked LM's transform is GELU whatever hidden_act says
_MASKED_LM = HeadConfig("masked_lm", bias=True, activation="gelu", dropout=0.1)


def _roberta(bert: ModelConfig, vocab_size: int = 50_265) -> ModelConfig:
    return dataclasses.replace(
        bert, family="roberta", vocab_size=vocab_size, head=_MASKED_LM,
        positions=PositionConfig("learned", max_length=512, offset=2),
        norm=dataclasses.replace(bert.norm, eps=1e-5),
        embedding=EmbeddingConfig(norm=True, types=1),
    )


PRESETS = {
    "roberta_debug": _roberta(BERT["bert_debug"], 0),
    "roberta_base": _roberta(BERT["bert_base_uncased"]),
    "roberta_large": _roberta(BERT["bert_large_uncased"]),
}


class _Positions:
    """max_position_embeddings counts the unused rows up to that of pad_token_id."""

    keys = ("max_position_embeddings", "pad_token_id")

    def read(self, theirs):
        """See Rule."""
        pad = theirs.get("pad_token_id", 1)
        if pad is None:
            raise unsupported("pad_token_id", None)
        offset = pad + 1
        length = theirs.get("max_position_embeddings", 512)
        return {"positions.offset": offset, "positions.max_length": length - offset}

    def write(self, ours):
        """See Rule."""
        positions = ours.positions
        return {
            "max_position_embeddings": positions.max_length + positions.offset,
            "pad_token_id": positions.offset - 1,
        }


FAMILY = Family(
    model_type="roberta",
    architectures={
        "RobertaForMaskedLM": _MASKED_LM,
        "RobertaForSequenceClassification": HeadConfig(
            "sequence_classification", pooling="first", dense=True
        ),
        "RobertaForTokenClassification": HeadConfig("token_classification", pooling="none"),
        "RobertaModel": HeadConfig("embedding", pooling="first", dense=True),
    },
    base=PRESETS["roberta_debug"],
    config=(*CONFIG, _Positions()),
    weights=(
        *weights("roberta"),
        *language_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
        *for_heads(
            TEXTS,
            linear("head.dense", "classifier.dense"), linear("head.output", "classifier.out_proj"),
        ),
        *for_heads(("token_classification",), linear("head.output", "classifier")),
    ),
    prefix="roberta.",
    ignored=(*IGNORED, r"lm_head\.bias"),  # which an untied decoder does not use
    dropped=DROPPED,
    twins={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
        "lm_head.bias": "lm_head.decoder.bias",
    },
    copies={"lm_head.bias": "lm_head.decoder.bias"},
    renames=RENAMES,
)
