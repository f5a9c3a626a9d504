"""What a plan reckons of adapters equals what the model itself has of them."""

import dataclasses
import math
from functools import partial

import jax
import pytest

from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.models.config import preset
from jaxllm.models.parameters import is_spec
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import abstract
from jaxllm.plan.adapters import adapters, base_bytes
from jaxllm.plan.shapes import model_shape


def specs_of(name, lora, quantization="none"):
    model = dataclasses.replace(preset(name), vocab_size=512).completed()
    adapter = AdapterConfig("lora", lora=lora, quantization=quantization)
    model = dataclasses.replace(model, adapter=adapter)
    compute = make_compute(param_dtype="bfloat16")
    specs = abstract(partial(Transformer, config=model, compute=compute))[1]
    return model, jax.tree.leaves(specs, is_leaf=is_spec)


@pytest.mark.parametrize("targets", [("all-linear",), (), ("attention.query", "mlp.down")])
@pytest.mark.parametrize("name", ["llama_debug", "gemma3_debug", "gpt2_debug", "t5_debug"])
def test_trained_parameters(name, targets):
    model, specs = specs_of(name, LoraConfig(r=4, target_modules=targets))
    trained = sum(math.prod(spec.shape) for spec in specs if spec.trained)
    assert adapters(model_shape(model), 4, targets) == trained


def test_a_base_in_four_bits():
    lora = LoraConfig(r=4, target_modules=("all-linear",))
    model, specs = specs_of("llama_tiny", lora, "nf4")
    held = sum(math.prod(s.shape) * s.dtype.itemsize for s in specs if not s.trained)
    assert base_bytes(model_shape(model), "qlora") == pytest.approx(held, rel=0.01)
