"""Parameter trees and a loss curve, frozen: changing one is a decision, visible in review.

`pytest tests/golden --update-golden` writes them anew.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from jaxllm.data.batch import Batch
from jaxllm.models.config import families, preset
from jaxllm.models.parameters import is_spec
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.losses import LossOptions
from jaxllm.train.state import init_state, make_setup
from jaxllm.train.step import jit_train_step

VOCABULARY, ROWS, LENGTH, STEPS = 64, 4, 32, 20


def debug_model(family):
    return dataclasses.replace(preset(f"{family}_debug"), vocab_size=VOCABULARY).completed()


@pytest.mark.parametrize("family", families())
def test_parameters(family, compute, golden):
    _, specs = abstract(partial(Transformer, config=debug_model(family), compute=compute))
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    golden(f"parameters/{family}", {
        ".".join(key.key for key in path): {
            "shape": list(spec.shape), "axes": list(spec.axes), "inputs": spec.inputs,
            "dtype": str(spec.dtype),
        }
        for path, spec in leaves
    })


def batch(step):
    """Sequences that count up by a step of their own, so that there is something to learn."""
    rng = np.random.default_rng(step)
    first, stride = rng.integers(0, VOCABULARY, (ROWS, 1)), rng.integers(1, 4, (ROWS, 1))
    tokens = ((first + stride * np.arange(LENGTH + 1)) % VOCABULARY).astype(np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    weights = (rng.random((ROWS, LENGTH)) < 0.9).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights, positions, np.ones_like(positions))


def test_loss_curve(compute, golden):
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=4)
    setup = make_setup(debug_model("llama"), compute, optimizer, STEPS)
    state = init_state(setup, seed=42)
    step = jit_train_step(setup, LossOptions(), 1, 42)
    curve = {"loss": [], "grad_norm": [], "learning_rate": []}
    for index in range(STEPS):
        state, metrics = step(state, batch(index))
        for name, values in curve.items():
            values.append(float(metrics[name]))

    def compare(found, expected):
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)

    golden("loss_curve", curve, compare)
    assert curve["loss"][-1] < 0.8 * curve["loss"][0]
