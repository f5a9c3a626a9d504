"""FLOPs of plan: the model's equal models/flops.py, the program's equal the traced train step."""

import dataclasses

import pytest

from jaxllm.models.config import preset, presets
from jaxllm.models.flops import train_flops_per_row
from jaxllm.nn.compute import REMAT, REMAT_OFFLOADS, REMAT_SAVES
from jaxllm.plan.flops import SPLASH, XLA, Kernel, Lengths, model_flops, step_flops
from jaxllm.plan.remat import POLICIES, find_remat
from jaxllm.plan.shapes import model_shape
from tests.plan.counting import step_products
from tests.plan.test_shapes import specs_of


def lengths_of(config, own=32, encoder=48, targets=0):
    return Lengths(own, encoder if config.architecture == "encoder_decoder" else 0, targets)


@pytest.mark.parametrize("name", [n for n in presets() if n.endswith("_debug")] + ["llama3.1_8b"])
def test_model_flops_are_those_of_mfu(name):
    config = preset(name)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or 500).completed()
    lengths = lengths_of(config, targets=7 if config.architecture == "encoder" else 0)
    ours = model_flops(model_shape(config), lengths)
    theirs = train_flops_per_row(
        config, specs_of(config), lengths.own, lengths.encoder, lengths.targets
    )
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_every_policy_is_described_as_the_layers_have_it():
    assert set(POLICIES) == set(REMAT)
    for name, saved in REMAT_SAVES.items():
        assert POLICIES[name].saved == set(saved)
        assert POLICIES[name].offloaded == set(REMAT_OFFLOADS.get(name, ()))


def check_step(config, lengths, remat):
    ours = step_flops(model_shape(config), lengths, find_remat(remat), XLA)
    counted = step_products(
        config, 2, lengths.own, encoder_length=lengths.encoder, targets=lengths.targets,
        remat=remat, attention="xla",
    )
    total = sum(part.total for part in ours.values())
    assert sum(counted.values()) / 2 == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("remat", [n for n in REMAT if "offload" not in n] + ["kv_offload"])
def test_step_flops_are_the_products_traced(remat):
    config = preset("llama_debug")
    config = dataclasses.replace(config, vocab_size=272, width=96, layers=3).completed()
    check_step(config, Lengths(64), remat)


@pytest.mark.parametrize(("name", "remat"), [
    ("gemma3_debug", "full"), ("phi_debug", "full"), ("gpt2_debug", "attention"),
    ("t5_debug", "full"), pytest.param("bart_debug", "projections", marks=pytest.mark.thorough),
    ("bert_debug", "full"),
    ("bert_debug", "none"), ("olmo2_debug", "full"), ("gemma2_debug", "dots"),
])
def test_step_flops_of_other_families(name, remat):
    config = preset(name)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or 272).completed()
    check_step(config, lengths_of(config, targets=6 if "bert" in name else 0), remat)


def test_a_kernel_skips_empty_tiles():
    assert XLA.keys(4096, 0, True) == 4096
    assert SPLASH.keys(4096, 0, True) == 4096 * 9 / 16  # 8 tiles: 36 of 64
    assert SPLASH.keys(512, 0, True) == 512
    assert Kernel("k", 4, 5).keys(16, 5, True) == 4 * 7 / 4  # 1 + 2 + 2 + 2 tiles in 4 rows
    assert SPLASH.keys(8192, 1024, False) == 5 * 512


def test_full_remat_repeats_all_but_the_last_product():
    shape, lengths = model_shape(preset("llama3.1_8b").completed()), Lengths(8192)
    parts = step_flops(shape, lengths, find_remat("full"), SPLASH)
    layer, down = 218_103_808, 4096 * 14_336
    assert parts["recomputed"].products == 2 * 8192 * 32 * (layer - down)
    assert parts["recomputed"].attention == parts["forward"].attention
