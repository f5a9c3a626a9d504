"""config.json files as the hub has them (of transformers 4) are the presets; odd ones are refused.
"""

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.models.hf.family import family, find_family

_GEMMA = {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu",
    "hidden_activation": None, "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 16_384, "max_position_embeddings": 8192, "model_type": "gemma",
    "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "pad_token_id": 0, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10_000.0,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 256_000,
}
_GEMMA2 = {
    **_GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "cache_implementation": "hybrid", "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608, "intermediate_size": 36_864,
    "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144, "sliding_window": 4096, "sliding_window_size": 4096,
}
_GEMMA3 = {
    **{key: value for key, value in _GEMMA.items() if key != "hidden_act"},
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
    "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "cache_implementation": "hybrid", "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32_768,
    "num_attention_heads": 4, "num_hidden_layers": 26, "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10_000, "rope_theta": 1_000_000, "sliding_window": 512,
    "sliding_window_pattern": 6, "vocab_size": 262_144,
}
_BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
    "position_embedding_type": "absolute", "type_vocab_size": 2, "use_cache": True,
    "vocab_size": 30_522,
}
_ROBERTA = {
    **_BERT, "architectures": ["RobertaForMaskedLM"], "model_type": "roberta",
    "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "pad_token_id": 1,
    "type_vocab_size": 1, "vocab_size": 50_265,
}
HUB = {
    "gemma_2b": _GEMMA, "gemma2_27b": _GEMMA2, "gemma3_1b": _GEMMA3,
    "gemma3_4b": {
        **_GEMMA3, "hidden_size": 2560, "intermediate_size": 10_240, "num_attention_heads": 8,
        "num_key_value_heads": 4, "num_hidden_layers": 34, "sliding_window": 1024,
        "max_position_embeddings": 131_072, "vocab_size": 262_208,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    "bert_base_uncased": _BERT, "roberta_base": _ROBERTA,
}
MODELS = {config["model_type"]: config for config in HUB.values()}


def read(theirs):
    return find_family(theirs).read(theirs)


@pytest.mark.parametrize("name", HUB)
def test_the_hubs_config_is_the_preset(name):
    ours = preset(name).completed()
    assert read(HUB[name]) == ours
    assert read(family(ours.family).write(ours)) == ours


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((kind, "use_bidirectional_attention", True)
          for kind in ("gemma", "gemma2", "gemma3_text")),
        *((kind, key, value) for kind in ("bert", "roberta") for key, value in (
            ("is_decoder", True), ("add_cross_attention", True), ("hidden_act", "mish"),
            ("position_embedding_type", "relative_key"), ("use_something_else", True),
        )),
        ("roberta", "pad_token_id", None),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
        ("gemma3_text", "layer_types", ["chunked_attention"] * 26),
    ],
)
def test_what_is_not_implemented_is_refused(kind, key, value):
    with pytest.raises(UserError, match=key):
        read({**MODELS[kind], key: value})


def test_gelu_of_gemma_is_its_tanh_form():
    for key, value in {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu"}.items():
        assert read({**_GEMMA, key: value}).mlp.activation == "gelu_tanh"
    with pytest.raises(UserError, match="contradict"):
        read({**_GEMMA, "hidden_activation": "relu"})


def test_older_gemma3_files_say_how_often_a_layer_is_global():
    pattern = read({**_GEMMA3, "sliding_window_pattern": 3}).attention.pattern
    assert pattern == ("local", "local", "global")


def test_gemma3_with_a_vision_tower_says_how_to_save_its_text_model():
    whole = {"model_type": "gemma3", "text_config": {"hidden_size": 2560}, "vision_config": {}}
    with pytest.raises(UserError, match=r"vision.*text = Gemma3ForCausalLM"):
        read(whole)


def test_the_classifiers_dropout_is_that_of_the_layers_unless_said():
    for rate, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        head = read({**_BERT, "classifier_dropout": rate}).head
        assert head.dropout == expected


def test_one_label_is_a_reward():
    classifier = {**_BERT, "architectures": ["BertForSequenceClassification"]}
    head = read({**classifier, "id2label": {"0": "LABEL_0"}}).head
    assert (head.kind, head.labels) == ("reward", 1)
    assert read({**classifier, "num_labels": 4}).head.labels == 4
    assert read(classifier).head.labels == 2
