"""Presets have the published parameter counts (model cards and papers), counted abstractly."""

from functools import partial

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset, presets
from jaxllm.models.parameters import param_count
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3.1_8b": 8_030_261_248,
    "llama3.1_70b": 70_553_706_496,
    "llama3.1_405b": 405_853_388_800,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
}


def specs_of(config, compute):
    return abstract(partial(Transformer, config=config.completed(), compute=compute))[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_count(name, compute):
    assert param_count(specs_of(preset(name), compute)) == PUBLISHED[name]


def test_the_benchmark_shape(compute):
    assert round(param_count(specs_of(preset("llama_21m"), compute)) / 1e6, 1) == 20.6


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_complete_and_of_its_family(name):
    config = preset(name).completed()
    assert name.startswith(config.family)
    assert config.attention.heads % config.attention.kv_heads == 0
    assert config.completed() == config
    assert (config.vocab_size == 0) == name.endswith(("_debug", "_tiny"))


def test_an_unknown_preset():
    with pytest.raises(UserError, match=r"model\.preset='llama3_8' is unknown.*'llama3_8b'"):
        preset("llama3_8")
