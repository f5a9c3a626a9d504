"""Presets have the published parameter counts (model cards and papers), counted abstractly.

`published/FAMILY.json` holds the exact count, made by transformers, and the size that is published,
rounded; null where what is published counts something else, for the reason given.
"""

import json
import operator
from functools import partial
from pathlib import Path

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import families, preset, presets
from jaxllm.models.parameters import param_count
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract
from tests.documents import read_table, write_table

PUBLISHED = {
    name: entry
    for file in sorted((Path(__file__).parent / "published").glob("*.json"))
    for name, entry in json.loads(file.read_text()).items()
}


def same_when_rounded(exact, published):
    """Within half a per cent, or the same in as many digits as are published."""
    digits = len(str(published).rstrip("0"))
    rounded = float(f"{exact:.{digits - 1}e}")
    return rounded == published or abs(exact - published) < 0.005 * published


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_count(name, compute):
    make = partial(Transformer, config=preset(name).completed(), compute=compute)
    count, entry = param_count(abstract(make)[1]), PUBLISHED[name]
    assert count == entry["parameters"]
    assert entry["published"] is None or same_when_rounded(count, entry["published"])


def test_every_preset_of_a_fixed_vocabulary_is_counted():
    fixed = {name for name, config in presets().items() if config.vocab_size}
    assert fixed == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_complete_and_of_its_family(name):
    config = preset(name).completed()
    assert config.attention.heads % config.attention.kv_heads == 0
    assert config.completed() == config
    assert (config.vocab_size == 0) == name.endswith(("_debug", "_tiny"))


def test_every_family_has_a_debug_preset():
    assert {f"{family}_debug" for family in families()} <= set(presets())


def test_an_unknown_preset():
    with pytest.raises(UserError, match=r"model\.preset='llama3_8' is unknown.*'llama3_8b'"):
        preset("llama3_8")


def test_the_documented_table(request):
    def row(name, config):
        layers, heads = str(config.layers), str(config.attention.heads)
        if config.architecture == "encoder_decoder":
            layers = f"{config.encoder.layers} + {layers}"
        if config.attention.kv_heads != config.attention.heads:
            heads += f" ({config.attention.kv_heads})"
        figures = operator.attrgetter("width", "mlp.width", "vocab_size")(config)
        count = PUBLISHED[name]["parameters"]
        return [f"`{name}`", config.family, f"{count:,}", layers, heads, *map(str, figures)]

    expected = [
        row(name, config.completed()) for name, config in presets().items() if config.vocab_size
    ]
    if request.config.getoption("--update-golden"):
        head = ["preset", "family", "parameters", "layers", "heads (of keys)", "width", "MLP",
                "vocabulary"]
        write_table("presets", head, expected)
    assert read_table("presets") == expected, "write docs/models.md anew with --update-golden"
