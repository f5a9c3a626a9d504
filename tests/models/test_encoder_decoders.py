"""T5 and BART: config.json as the Hub has it, and how fresh weights of T5 are drawn."""

import dataclasses

import numpy as np
import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.models.families.bart import FAMILY as BART
from jaxllm.models.families.t5 import FAMILY as T5
from jaxllm.nn.config import HeadConfig

T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
    "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "model_type": "t5", "n_positions": 512, "num_heads": 8, "num_layers": 6, "output_past": True,
    "pad_token_id": 0, "relative_attention_num_buckets": 32, "task_specific_params": {},
    "vocab_size": 32128,
}
FLAN_SMALL = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
    "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "output_past": True,
    "pad_token_id": 0, "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
    "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 32128,
}
BART_LARGE = {
    "activation_dropout": 0.1, "activation_function": "gelu", "add_bias_logits": False,
    "add_final_layer_norm": False, "architectures": ["BartModel"], "attention_dropout": 0.1,
    "bos_token_id": 0, "classif_dropout": 0.1, "classifier_dropout": 0.0, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0,
    "decoder_layers": 12, "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0,
    "encoder_layers": 12, "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
    "gradient_checkpointing": False, "init_std": 0.02, "is_encoder_decoder": True,
    "max_position_embeddings": 1024, "model_type": "bart", "no_repeat_ngram_size": 3,
    "normalize_before": False, "num_beams": 4, "num_hidden_layers": 12, "pad_token_id": 1,
    "scale_embedding": False, "use_cache": True, "vocab_size": 50265,
}


def without_dropout(config):
    return dataclasses.replace(
        config, dropout=0.0, decoder_start_id=-1,
        attention=dataclasses.replace(config.attention, dropout=0.0),
        mlp=dataclasses.replace(config.mlp, dropout=0.0),
    )


@pytest.mark.parametrize(("family", "theirs", "name", "start"), [
    (T5, T5_SMALL, "t5_small", 0), (T5, FLAN_SMALL, "t5v1.1_small", 0),
    (BART, {**BART_LARGE, "architectures": ["BartForConditionalGeneration"]}, "bart_large", 2),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_hubs_files_are_the_presets(family, theirs, name, start):
    config = family.read(theirs)
    assert config.decoder_start_id == start
    assert without_dropout(config) == preset(name).completed()
    written = family.write(config)
    assert {key: written[key] for key in theirs if key in written} == {
        key: value for key, value in theirs.items() if key in written
    }


def test_a_bare_bart_embeds():
    assert BART.read(BART_LARGE).head == HeadConfig("embedding", pooling="last")


@pytest.mark.parametrize(("family", "theirs", "change"), [
    (T5, T5_SMALL, {"feed_forward_proj": "gated-tanh"}),
    (T5, FLAN_SMALL, {"dense_act_fn": "relu"}),
    (T5, T5_SMALL, {"is_encoder_decoder": False}),
    (BART, BART_LARGE, {"normalize_before": True}),
    (BART, BART_LARGE, {"encoder_layerdrop": 0.1}),
    (BART, BART_LARGE, {"activation_function": "tanh"}),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) and len(value) == 1 else "")
def test_what_would_compute_something_else_is_refused(family, theirs, change):
    with pytest.raises(UserError, match=f"{next(iter(change))}=.*is not implemented"):
        family.read({**theirs, **change})


def test_t5_is_drawn_as_published(compute, build):
    config = dataclasses.replace(preset("t5_debug"), vocab_size=300).completed()
    _, params = build(config, compute)
    layer = params["decoder"]["layers"]["layer"]
    for array, stddev in (
        (params["embedding"]["table"], 1.0),
        (layer["attention"]["query"]["kernel"], (64 * 16) ** -0.5),
        (layer["attention"]["key"]["kernel"], 64**-0.5),
        (layer["cross"]["output"]["kernel"], (4 * 16) ** -0.5),
        (layer["mlp"]["up"]["kernel"], 64**-0.5),
        (layer["mlp"]["down"]["kernel"], 192**-0.5),
    ):
        assert np.std(array) == pytest.approx(stddev, rel=0.05)
