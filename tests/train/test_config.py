"""What a training recipe cannot ask for."""

import dataclasses

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.nn.config import HeadConfig
from jaxllm.train.config import default_config, resolve_config


def test_an_origin_without_a_language_head_is_refused():
    recipe = default_config()
    recipe.train.init_from, recipe.data.objective = "a_bert", "masked"
    head = HeadConfig("embedding", pooling="first", dense=True)
    base = dataclasses.replace(preset("bert_base_uncased"), head=head)
    for kind in (None, "masked_lm"):
        recipe.model.head.kind = kind
        with pytest.raises(UserError, match=r"no head that.* BertForMaskedLM or BertForPre"):
            resolve_config(recipe, base)
