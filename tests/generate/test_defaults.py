"""generation_config.json, and the same keys in an older config.json."""

import json

import pytest

from jaxllm.core.errors import UserError
from jaxllm.generate.defaults import Defaults, read_defaults
from jaxllm.generate.steps import TokenRules
from jaxllm.models.config import preset

LLAMA, BART = preset("llama_debug"), preset("bart_debug")


def read(folder, theirs, config, file="generation_config.json"):
    (folder / file).write_text(json.dumps(theirs))
    heard = []
    return read_defaults(folder, config, heard.append), heard


def test_a_chat_model_with_two_ends(tmp_path):
    defaults, heard = read(tmp_path, {
        "bos_token_id": 128_000, "do_sample": True, "eos_token_id": [128_001, 128_009],
        "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.42.3",
    }, LLAMA)
    assert defaults == Defaults(
        temperature=0.6, top_p=0.9, rules=TokenRules((128_001, 128_009))
    )
    assert heard == []


def test_a_summariser(tmp_path):
    """As facebook/bart-large-cnn has it."""
    defaults, heard = read(tmp_path, {
        "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": True,
        "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
        "length_penalty": 2.0, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3,
        "num_beams": 4, "pad_token_id": 1,
    }, BART)
    assert defaults == Defaults(
        max_new_tokens=141, temperature=0.0, beams=4, length_penalty=2.0, early_stopping=True,
        rules=TokenRules((2,), first_id=0, last_id=2),
    )
    assert [line.split("=")[0] for line in heard] == [
        "generation_config.json: min_length", "generation_config.json: no_repeat_ngram_size",
    ]


def test_an_older_folder(tmp_path):
    defaults, heard = read(
        tmp_path, {"eos_token_id": 2, "model_type": "llama"}, LLAMA, "config.json"
    )
    assert defaults == Defaults(rules=TokenRules((2,)))
    assert heard == []


def test_without_sampling_the_likeliest_token_is_taken(tmp_path):
    defaults, _ = read(tmp_path, {"temperature": 0.7, "top_k": 5, "max_length": 20}, LLAMA)
    assert defaults == Defaults(temperature=0.0)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read"):
        read_defaults(tmp_path, LLAMA, print)
