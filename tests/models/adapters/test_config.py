"""What the section says is read or refused; freezing by regex."""

import dataclasses
from functools import partial

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.adapters import trained
from jaxllm.models.adapters.adapter import linears_of
from jaxllm.models.adapters.attach import STACKS
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.hf.mapping import flatten
from jaxllm.models.transformer import Transformer
from jaxllm.nn.config import HeadConfig
from jaxllm.nn.module import abstract


def adapter(**changes):
    lora = {k: changes.pop(k) for k in list(changes) if k not in ("method", "quantization",
                                                                 "double_quantization", "freeze")}
    return AdapterConfig(**{"method": "lora", "lora": LoraConfig(**lora), **changes})


@pytest.mark.parametrize(("config", "message"), [
    (adapter(method="lroa"), r"t\.method='lroa' is unknown.*'lora'"),
    (adapter(method="full", quantization="nf4"), r"t\.quantization='nf4' with .*method='full'"),
    (adapter(method="full", quantization="int8"), r"cannot be trained themselves"),
    (adapter(method="full", r=4), r"t\.lora has no effect with t\.method='full'"),
    (adapter(double_quantization=False), r"double_quantization=False has no effect"),
    (adapter(quantization="int4"), r"quantization='int4' is unknown"),
    (adapter(init_lora_weights="pisa"), r"init_lora_weights='pisa' is unknown.*'pissa'"),
    (adapter(bias="some"), r"bias='some' is unknown"),
    (adapter(r=0), r"t\.lora\.r=0 must be at least 1"),
    (adapter(lora_alpha=0.0), r"lora_alpha=0\.0 must be above 0"),
    (adapter(lora_dropout=1.0), r"lora_dropout=1\.0 .* below 1"),
    (adapter(rank_pattern=("up=x",)), r"rank_pattern='up=x' must be a regex, '=' and a whole"),
    (adapter(alpha_pattern=("7",)), r"alpha_pattern='7' must be a regex, '=' and a number"),
    (adapter(target_modules=("(",)), r"target_modules='\(' is no regular expression"),
    (adapter(freeze=("[",)), r"t\.freeze='\[' is no regular expression"),
])
def test_refuses(config, message):
    with pytest.raises(UserError, match=message):
        config.check("t")


def specs_of(config, compute):
    return abstract(partial(Transformer, config=config, compute=compute))[1]


@pytest.mark.parametrize(("family", "lora", "names"), [
    ("llama", {}, {"query", "value"}),
    ("llama", {"target_modules": ("q_proj", "mlp.down")}, {"query", "down"}),
    ("llama", {"target_modules": ("all-linear",)},
     {"query", "key", "value", "output", "gate", "up", "down"}),
    ("llama", {"target_modules": (r".*\.self_attn\.[kv]_proj",)}, {"key", "value"}),
    ("llama", {"target_modules": (r"decoder\.layers\.mlp\..*",)}, {"gate", "up", "down"}),
    ("gpt2", {"target_modules": ("c_attn",)}, {"query", "key", "value"}),
    ("phi3", {"target_modules": ("gate_up_proj",)}, {"gate", "up"}),
    ("bert", {"target_modules": ("intermediate.dense", "query")}, {"up", "query"}),
    ("t5", {"target_modules": ("q", "wo")}, {"query", "down"}),
])
def test_targets_by_either_name(model_of, compute, family, lora, names):
    found = linears_of(model_of(family, **{"r": 2, **lora}), compute).found
    adapted = {path for path, linear in found.items() if linear.lora is not None}
    assert {path.rpartition(".")[2] for path in adapted} == names
    assert all(STACKS.search(path) for path in adapted)


def test_only_adapters_train_and_what_is_saved_whole(model_of, compute):
    config = model_of("llama", r=2, modules_to_save=("embed_tokens", "decoder.norm"))
    names = {n for n, spec in flatten(specs_of(config, compute)).items() if spec.trained}
    stem = "decoder.layers.layer.attention"
    assert names == {
        "embedding.table", "decoder.norm.scale",
        *(f"{stem}.{m}.lora.{f}.kernel" for m in ("query", "value") for f in "ab"),
    }


@pytest.mark.parametrize(("bias", "count"), [("none", 0), ("lora_only", 2), ("all", 9)])
def test_biases(model_of, compute, bias, count):
    config = model_of("gpt2", r=2, bias=bias)
    names = [n for n, spec in flatten(specs_of(config, compute)).items() if spec.trained]
    assert len([n for n in names if n.endswith(".bias")]) == count


def test_a_new_head_trains(model_of, compute):
    head = HeadConfig("sequence_classification", labels=3, pooling="first", dense=True)
    specs = flatten(specs_of(model_of("bert", r=2, head=head), compute))
    assert all(spec.trained for name, spec in specs.items() if name.startswith("head."))


def test_ranks_and_scales_by_pattern(model_of, compute):
    config = model_of(
        "llama", r=4, lora_alpha=8.0, target_modules=("all-linear",),
        rank_pattern=("mlp\\..*=2", "up_proj=3"), alpha_pattern=("q_proj=1.5",),
    )
    linears = linears_of(config, compute)
    ranks = {p.rpartition(".")[2]: linears.specs[f"{p}.lora.a.kernel"].shape[-1]
             for p, linear in linears.found.items() if linear.lora is not None}
    assert ranks == {"query": 4, "key": 4, "value": 4, "output": 4, "gate": 2, "up": 2, "down": 2}
    stem = "decoder.layers.layer"
    assert linears.scale(f"{stem}.attention.query") == 1.5 / 4
    assert linears.scale(f"{stem}.mlp.up") == 8 / 2  # the first pattern wins


@pytest.mark.parametrize(("lora", "message"), [
    ({"target_modules": ("q_porj",)}, r"'q_porj' names no linear map.*'q_proj'"),
    ({"target_modules": ("lm_head",)}, r"names head\.output, which gets no adapter.*save"),
    ({"target_modules": ("embed_tokens",)}, r"names embedding, which gets no adapter"),
    ({"target_modules": ("layers.0.self_attn.q_proj",)}, r"and not every layer's"),
    ({"r": 33, "target_modules": ("k_proj",)}, r"r=33 is above the rank of .*key, a .* use 32"),
    ({"rank_pattern": ("mlp.up=4",)}, r"rank_pattern: 'mlp\.up' names no module with an adapter"),
    ({"modules_to_save": ("lm_haed",)}, r"modules_to_save: 'lm_haed' names no module.*'lm_head'"),
    ({"modules_to_save": ("q_proj",)}, r"is in target_modules and in modules_to_save"),
])
def test_refuses_targets(model_of, compute, lora, message):
    with pytest.raises(UserError, match=message):
        specs_of(model_of("llama", **{"r": 2, **lora}), compute)


def frozen(model_of, compute, *freeze, **lora):
    config = model_of("llama", **lora)
    config = dataclasses.replace(
        config, adapter=dataclasses.replace(config.adapter, freeze=freeze)
    )
    found = flatten(trained(specs_of(config, compute), config.adapter))
    return {name for name, trains in found.items() if not trains}


def test_freezing(model_of, compute):
    assert frozen(model_of, compute) == set()
    assert frozen(model_of, compute, "embedding.*", r".*norm\.scale") == {
        "embedding.table", "decoder.norm.scale", "decoder.layers.layer.attention_norm.scale",
        "decoder.layers.layer.mlp_norm.scale",
    }


@pytest.mark.parametrize(("freeze", "message"), [
    (("embeding.table",), r"'embeding\.table' matches no parameter.*'embedding\.table'"),
    (("embedding",), r"matches no parameter; a regex is for a whole path"),
    ((".*",), r"leaves nothing to train"),
])
def test_refuses_to_freeze(model_of, compute, freeze, message):
    with pytest.raises(UserError, match=message):
        frozen(model_of, compute, *freeze)
