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


@pytest.mark.parametrize(("field", "value", "message"), [
    ("train.steps", 10**20, r"train\.steps=10+ must lie between -2147483647 and 2147483647"),
    ("train.steps", 3 * 10**9, r"train\.steps=3000000000 must lie between"),
    ("model.vocab_size", 10**20, r"model\.vocab_size=10+ must lie between"),
    ("data.global_batch_size", 2 * 10**9, r"global_batch_size=20+ must .* at most 1e\+07"),
    ("eval.batch_size", 2 * 10**9, r"eval\.batch_size=20+ must .* at most 1e\+07"),
])
def test_numbers_that_no_device_holds(field, value, message):
    recipe = default_config()
    recipe.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        resolve_config(recipe)


def test_a_seed_may_have_32_bits():
    recipe = default_config()
    recipe.seed = 2**32 - 1
    assert resolve_config(recipe).seed == 2**32 - 1
