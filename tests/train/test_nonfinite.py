"""The report of a non-finite step looks at what the run minimises, not at the targets' loss alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxllm.models.config import preset
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.nonfinite import explain
from jaxllm.train.scores import plain_passes
from jaxllm.train.state import init_state, make_setup

from ..golden.test_golden import batch

MODEL = dataclasses.replace(preset("llama_debug"), vocab_size=64).completed()
OPTIONS = LossOptions()


@pytest.fixture(scope="module")
def setup():
    return make_setup(MODEL, make_compute(), OptimizerConfig(), 20)


def told(setup, change, accumulation=1):
    """The report for a run that minimises what `change` makes of the plain sums and parameters."""
    passes = plain_passes(setup, OPTIONS)

    def loss(params, fixed, batch, key):
        return change(passes(params, fixed, batch, key), params)

    state = init_state(setup, 0)
    return explain(setup, OPTIONS, state, batch(0), jax.random.key(0), accumulation, loss)


def to_infinity(sums, params):
    return sums._replace(loss=sums.loss + jnp.inf)


def to_an_edge(sums, params):
    """Finite, with a gradient that is not: √ at 0."""
    return sums._replace(loss=sums.loss + jnp.sqrt(0 * jnp.sum(params["embedding"]["table"])))


@pytest.mark.parametrize(("change", "accumulation", "words"), [
    (to_infinity, 1, "loss of the targets is finite; what tune.robust or tune.distillation makes"),
    (to_infinity, 2, "what tune.robust or tune.distillation makes"),
    (to_an_edge, 1, "the gradient of embedding.table is not"),
    (lambda sums, params: sums, 1, "Repeated alone, the step is finite"),
])
def test_what_is_minimised_is_looked_at(setup, change, accumulation, words):
    assert words in told(setup, change, accumulation)
