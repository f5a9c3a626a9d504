"""Counts the matrix products of a traced program, loops as often as they run."""

import math

import jax
import jax.numpy as jnp

from jaxllm.core.config import MeshConfig
from jaxllm.core.mesh import Sharding, make_mesh
from jaxllm.data.batch import Batch
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import make_setup
from jaxllm.train.step import make_train_step


def products(jaxpr, found=None, repeats=1):
    """{(left shape, right shape): FLOPs} of every dot_general, and their sum."""
    found = {} if found is None else found
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            left, right = (v.aval.shape for v in equation.invars)
            out = math.prod(equation.outvars[0].aval.shape)
            flops = repeats * 2 * out * math.prod(left[axis] for axis in contracting)
            found[left, right] = found.get((left, right), 0) + flops
        inside = repeats
        if equation.primitive.name == "scan":
            inside *= equation.params["length"]
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner := getattr(item, "jaxpr", item), "eqns"):
                    products(inner, found, inside)
    return found


def step_products(config, batch, length, *, encoder_length=0, targets=0, **compute):
    """`products` of a real train step, traced for one device."""
    sharding = Sharding(make_mesh(MeshConfig(), jax.devices()[:1]))
    setup = make_setup(config, make_compute(sharding, **compute), OptimizerConfig(), 20)
    step = make_train_step(setup, LossOptions(chunk=length, targets_per_row=targets))

    def ids(size):
        return jax.ShapeDtypeStruct((batch, size), jnp.int32)

    arrays = [ids(length), ids(length), jax.ShapeDtypeStruct((batch, length), jnp.float32),
              ids(length), ids(length)]
    if encoder_length:
        arrays += [None, *[ids(encoder_length)] * 3]
    traced = jax.make_jaxpr(step)(setup.shapes, Batch(*arrays), jax.random.key(0))
    return products(traced.jaxpr)
