"""What a recipe sets of a model must be read by it."""

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import model_section, presets, resolve_model


def resolved(preset, **changes):
    section = model_section()
    section.preset = preset
    for name, value in changes.items():
        where, *rest = name.split("__")
        target = section[where] if rest else section
        target[rest[0] if rest else where] = value
    return resolve_model(section)


@pytest.mark.parametrize(("preset", "changes", "message"), [
    ("gpt2", {"positions__theta": 5e5}, r"positions\.theta=500000\.0 has no .* to 'rope'"),
    ("gpt2", {"positions__scaling": "yarn"}, r"positions\.scaling='yarn' has no effect"),
    ("llama_debug", {"positions__beta_fast": 3.0}, r"positions\.scaling='none'.* to 'yarn'"),
    ("llama_debug", {"positions__buckets": 8}, r"positions\.kind='rope'.* to 'relative'"),
    ("llama_debug", {"positions__offset": 2}, "to 'learned'"),
    ("llama_debug", {"head__labels": 3}, r"head\.labels=3 has no effect .*head\.kind='lm'"),
    ("llama_debug", {"head__activation": "relu"}, "to 'masked_lm'"),
    ("llama_debug", {"decoder_start_id": 5}, "to 'encoder_decoder'"),
    ("bert_debug", {"bidirectional_prefix": True}, "architecture='encoder'"),
    ("llama_debug", {"attention__window": 8, "attention__pattern": ("global",)},
     r"window=8 has no effect .*name 'local'"),
    ("llama_debug", {"attention__pattern": ("local", "global")}, r"pattern=.* layers are alike"),
    ("bart_base", {"decoder_start_id": 50_265}, "from 0 to 50264"),
    ("bart_base", {"decoder_start_id": -2}, "is no token of the model"),
])
def test_what_nothing_reads_is_refused(preset, changes, message):
    with pytest.raises(UserError, match=message):
        resolved(preset, **changes)


def test_what_is_read_is_not():
    assert resolved("llama3.1_8b", positions__scaling_factor=4.0).positions.scaling_factor == 4
    assert resolved("bart_base", decoder_start_id=50_264).decoder_start_id == 50_264
    assert resolved("gemma3_1b", attention__window=64).attention.window == 64
    classes = {"head__kind": "sequence_classification", "head__labels": 3}
    assert resolved("llama_debug", **classes).head.labels == 3


def test_presets_may_hold_more_than_is_read():
    for name in presets():
        resolved(name)
    assert resolved("llama3.1_8b", positions__kind="none").positions.theta == 500_000
