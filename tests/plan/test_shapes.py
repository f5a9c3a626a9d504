"""The jax-free lists of parameters and FLOPs equal what the model itself declares."""

import dataclasses
import math
from functools import partial

import jax
import pytest

from jaxllm.core.config import MeshConfig
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.models.config import preset, presets
from jaxllm.models.flops import kernel_params
from jaxllm.models.parameters import is_spec, param_count
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import abstract
from jaxllm.plan.shapes import model_shape


def specs_of(config):
    return abstract(partial(Transformer, config=config, compute=make_compute()))[1]


def check(config):
    shape, specs = model_shape(config), specs_of(config)
    assert shape.parameters == param_count(specs)
    kernels = sum(t.layers * w.size for t in shape.towers for w in t.layer if w.kernel)
    kernels += sum(w.size for w in shape.head if w.kernel)
    assert kernels == kernel_params(specs)
    stored = [(t.layers, *w.dims) for t in shape.towers for w in t.layer if w.dims]
    stored += [w.dims for t in shape.towers for w in t.besides if w.dims]
    stored += [w.dims for w in (shape.embedding, *shape.head) if w.dims]
    theirs = [s.shape for path, s in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
              if path[-1].key == "kernel" or (path[-1].key == "table" and path[-2].key != "bias")]
    if len(shape.config.attention.pattern) == 1:  # else the last layers are stored apart
        assert sorted(stored) == sorted(theirs)
    rules = dict(Sharding(make_mesh(MeshConfig())).rules)
    cut = {"fsdp": 0, "tensor": 0}
    for spec in jax.tree.leaves(specs, is_leaf=is_spec):
        for axis in cut:
            named = any(a and axis in rules[a] for a in spec.axes)
            cut[axis] += math.prod(spec.shape) if named else 0
    ours = [w for t in shape.towers for w in t.layer for _ in range(t.layers)]
    ours += [w for t in shape.towers for w in t.besides] + [shape.embedding, *shape.head]
    assert sum(w.size for w in ours if w.fsdp) == cut["fsdp"]
    assert sum(w.size for w in ours if w.tensor) == cut["tensor"]


@pytest.mark.parametrize("name", [n for n in presets() if n.endswith(("_debug", "_large"))] + [
    "llama3.1_405b", "gpt3_175b", "gemma3_27b", "t5_11b", "phi3_mini_4k", "olmo2_7b",
])
def test_presets(name):
    config = preset(name)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or 500).completed()
    check(config)


def test_families(tiny):
    for config in tiny.values():
        check(config.completed())


@pytest.mark.parametrize("kind", ["sequence_classification", "reward", "embedding"])
def test_text_heads(tiny, kind):
    head = dataclasses.replace(tiny["bert"].head, kind=kind, dense=True, labels=3 if
                               kind.startswith("seq") else 0)
    check(dataclasses.replace(tiny["bert"], head=head).completed())


def test_published_counts():
    counts = {"llama3.1_8b": 8_030_261_248, "llama3.1_405b": 405_853_388_800}
    for name, count in counts.items():
        assert model_shape(preset(name).completed()).parameters == count
