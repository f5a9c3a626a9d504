"""Optimizers against torch's AdamW, schedules against their formulas."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.core.errors import UserError
from jaxllm.nn.module import ParamSpec
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    clip_factor,
    decays,
    make_optimizer,
)

SPECS = {
    "embedding": {"table": ParamSpec((12, 4), jnp.float32, ("vocab", "embed"), 0)},
    "layers": {
        "kernel": ParamSpec((2, 4, 2, 3), jnp.float32, ("layers", "embed", "heads", "head_dim"), 1),
        "bias": ParamSpec((2, 2, 3), jnp.float32, ("layers", "heads", "head_dim"), 0),
        "scale": ParamSpec((2, 4), jnp.float32, ("layers", "norm"), 0),
    },
}


def arrays(seed):
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    return jax.tree.map(
        lambda spec: jax.random.normal(next(keys), spec.shape), SPECS,
        is_leaf=lambda node: isinstance(node, ParamSpec),
    )


def config_for(name, **values):
    reads = OPTIMIZERS[name][1]
    usual = {"momentum": 0.95} if name == "muon" else {}
    values = {k: v for k, v in (usual | values).items() if k in reads or k in BASIC}
    return OptimizerConfig(name=name, **values)


BASIC = {"learning_rate", "schedule", "warmup_steps", "max_grad_norm", "final_fraction"}


def schedule_of(config, steps):
    return make_optimizer(config, steps, SPECS)[1]


def test_cosine_warms_up_peaks_and_ends():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.1)
    schedule = schedule_of(config, 110)
    assert float(schedule(0)) == pytest.approx(2.0 / 11)
    assert float(schedule(9)) == pytest.approx(2.0 * 10 / 11)
    assert float(schedule(10)) == pytest.approx(2.0)
    middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5))
    assert float(schedule(60)) == pytest.approx(2.0 * middle)
    assert float(schedule(110)) == pytest.approx(0.2)
    assert float(schedule(500)) == pytest.approx(0.2)


@pytest.mark.parametrize(("name", "step", "share"), [
    ("constant", 90, 1.0), ("linear", 55, 0.55), ("linear", 100, 0.1),
    ("wsd", 79, 1.0), ("wsd", 90, 0.55), ("wsd", 100, 0.1),
])
def test_schedules_follow_their_formulas(name, step, share):
    fields = {} if name == "constant" else {"final_fraction": 0.1}
    config = OptimizerConfig(learning_rate=1.0, schedule=name, warmup_steps=10, **fields)
    assert float(schedule_of(config, 100)(step)) == pytest.approx(share, abs=1e-6)


def test_rsqrt_is_the_inverse_root_after_the_warmup():
    schedule = schedule_of(
        OptimizerConfig(learning_rate=1.0, schedule="rsqrt", warmup_steps=100), 10_000
    )
    assert float(schedule(400)) == pytest.approx(0.5)


def test_decay_leaves_norms_biases_and_embeddings_out():
    assert decays(SPECS, OptimizerConfig()) == {
        "embedding": {"table": False},
        "layers": {"kernel": True, "bias": False, "scale": False},
    }
    asked = decays(SPECS, OptimizerConfig(decay_embeddings=True))
    assert asked["embedding"]["table"] and not asked["layers"]["scale"]


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", b1=0.8, b2=0.9, eps=1e-5, weight_decay=0.3
    )
    optimizer, _ = make_optimizer(config, 10, SPECS)
    params = arrays(0)
    state = optimizer.init(params)
    theirs = {
        name: torch.nn.Parameter(torch.tensor(np.array(params["layers"][name])))
        for name in ("kernel", "bias")
    }
    common = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-5}
    torch_optimizer = torch.optim.AdamW([
        {"params": [theirs["kernel"]], "weight_decay": 0.3},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ], **common)
    for step in range(5):
        gradients = arrays(step + 1)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(np.array(gradients["layers"][name]))
        torch_optimizer.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(
            params["layers"][name], parameter.detach().numpy(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_downhill_and_decays_only_matrices(name):
    config = config_for(name, learning_rate=0.05, schedule="constant", weight_decay=0.5)
    optimizer, _ = make_optimizer(config, 10, SPECS)
    params = arrays(0)
    state = optimizer.init(params)

    def loss(params):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    before = loss(params)
    for _ in range(5):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < before

    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    shrunk = updates["layers"]["kernel"]
    np.testing.assert_allclose(shrunk, -0.05 * 0.5 * params["layers"]["kernel"], rtol=1e-4)
    assert not np.any(updates["layers"]["scale"])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_no_schedule_exceeds_the_peak(name):
    config = OptimizerConfig(learning_rate=1.0, schedule=name, warmup_steps=7)
    rates = [float(schedule_of(config, 50)(step)) for step in range(60)]
    assert max(rates) <= 1.0 and min(rates) > 0.0


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_longest_warmup_still_rises(name):
    most = 2**31 - 1
    config = OptimizerConfig(schedule=name, warmup_steps=most)
    _, schedule = make_optimizer(config, most, SPECS)
    early, half = (float(jax.jit(schedule)(jnp.int32(step))) for step in (0, 2**30 - 1))
    assert 0 < early < half == pytest.approx(config.learning_rate / 2)


def test_a_field_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.b2=0\.5 has no effect.*sgd"):
        make_optimizer(OptimizerConfig(name="sgd", b2=0.5), 10, SPECS)
    with pytest.raises(UserError, match=r"decay_fraction"):
        make_optimizer(OptimizerConfig(decay_fraction=0.5), 10, SPECS)


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "adamv"}, "Did you mean 'adamw'"),
    ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ({"moment_dtype": "foo"}, r"optimizer\.moment_dtype='foo' is unknown.*float32"),
    ({"moment_dtype": ""}, "Choose one of: bfloat16, float32"),
    ({"moment_dtype": "bool"}, "is unknown"),
    ({"moment_dtype": "int8"}, "is unknown"),
    ({"moment_dtype": "bfloat61"}, "Did you mean 'bfloat16'"),
    ({"warmup_steps": 11}, "between 0 and train.steps=10"),
])
def test_mistakes_name_the_nearest_choice(change, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(dataclasses.replace(OptimizerConfig(), **change), 10, SPECS)


def test_clipping_to_a_norm():
    assert float(clip_factor(jnp.float32(4.0), 1.0)) == 0.25
    assert float(clip_factor(jnp.float32(0.5), 1.0)) == 1.0
    assert float(clip_factor(jnp.float32(1e9), 0.0)) == 1.0
