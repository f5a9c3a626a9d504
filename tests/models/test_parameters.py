"""Shardings and sizes of parameters, and the message when a mesh does not divide them."""

from functools import partial

import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxllm.core.errors import UserError
from jaxllm.models.parameters import (
    check_divisible,
    first_not_finite,
    param_count,
    param_shardings,
)
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import ParamSpec, abstract


@pytest.fixture(scope="module")
def specs(tiny, compute):
    return abstract(partial(Transformer, config=tiny["llama"], compute=compute))[1]


def test_param_count(specs):
    layer = 32 * 4 * 16 + 2 * 32 * 2 * 16 + 4 * 16 * 32 + 3 * 32 * 40 + 2 * 32
    assert param_count(specs) == 2 * layer + 2 * 48 * 32 + 32


def test_param_shardings(specs, sharding_of):
    found = param_shardings(specs, sharding_of(data=2, fsdp=2, tensor=2))
    layer = found["decoder"]["layers"]["layer"]
    assert layer["attention"]["query"]["kernel"].spec == P(None, "fsdp", "tensor", None)
    assert layer["attention"]["output"]["kernel"].spec == P(None, "tensor", None, "fsdp")
    assert layer["mlp"]["down"]["kernel"].spec == P(None, "tensor", "fsdp")
    assert layer["mlp_norm"]["scale"].spec == P(None, None)
    assert found["embedding"]["table"].spec == P("tensor", "fsdp")
    assert found["head"]["output"]["kernel"].spec == P("fsdp", "tensor")


def test_check_divisible(specs, sharding_of):
    check_divisible(specs, sharding_of(data=2, fsdp=2, tensor=2))
    with pytest.raises(UserError) as caught:
        check_divisible(specs, sharding_of(fsdp=2, tensor=4))
    assert str(caught.value) == (
        "mesh.tensor=4 does not divide the model's 'kv_heads' size of 2 (parameter "
        "decoder.layers.layer.attention.key.kernel). Nearest values that do: 1, 2."
    )


@pytest.mark.parametrize(("size", "nearest"), [(12, "4, 6, 12"), (7, "1, 7"), (50, "2, 5, 10")])
def test_the_nearest_divisors(sharding_of, size, nearest):
    specs = {"a": ParamSpec((size,), "float32", ("mlp",), 0)}
    with pytest.raises(UserError, match=rf"mesh\.tensor=8 .*that do: {nearest}\."):
        check_divisible(specs, sharding_of(tensor=8))


def test_the_first_parameter_that_is_not_finite():
    params = {"a": jnp.ones(3), "b": {"c": jnp.array([1.0, jnp.inf])}}
    assert first_not_finite(params) == "b.c"
    assert first_not_finite({"a": params["a"]}) is None
