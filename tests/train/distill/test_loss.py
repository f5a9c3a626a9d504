"""Distillation against plain torch, TRL's published loss of GKD, and the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxllm.core.errors import UserError
from jaxllm.core.mesh import single_device
from jaxllm.data.batch import Batch
from jaxllm.models.saved import Model
from jaxllm.models.transformer import inputs_of
from jaxllm.nn.compute import make_compute
from jaxllm.nn.module import bind
from jaxllm.train.config import OptimizerConfig
from jaxllm.train.distill.config import DistillationConfig, check_distillation
from jaxllm.train.distill.job import likeliest
from jaxllm.train.distill.loss import check_tokenizer, distilled, from_likeliest, from_logits
from jaxllm.train.losses import LossOptions
from jaxllm.train.scores import Fixed, plain_passes
from jaxllm.train.state import init_state, make_setup

B, T, V = 4, 12, 48
KEY = jax.random.key(0)


def trl(student, teacher, beta, temperature, weights):
    """`GKDTrainer.generalized_jsd_loss` with reduction "sum", over places with a weight."""
    student = F.log_softmax(student / temperature, dim=-1)
    teacher = F.log_softmax(teacher / temperature, dim=-1)
    if beta == 0:
        jsd = F.kl_div(student, teacher, reduction="none", log_target=True)
    elif beta == 1:
        jsd = F.kl_div(teacher, student, reduction="none", log_target=True)
    else:
        share = torch.tensor(beta)
        mixture = torch.logsumexp(
            torch.stack([student + torch.log(1 - share), teacher + torch.log(share)]), dim=0
        )
        of_teacher = F.kl_div(mixture, teacher, reduction="none", log_target=True)
        of_student = F.kl_div(mixture, student, reduction="none", log_target=True)
        jsd = beta * of_teacher + (1 - beta) * of_student
    return (jsd.sum(-1) * weights).sum()


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.9, 2.0])
def test_logits_against_trl(beta, temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 7, 11)).astype(np.float32) * 3
    weights = rng.random((5, 7)).astype(np.float32)
    config = DistillationConfig(beta=beta, temperature=temperature)

    def ours(student):
        return jnp.sum(from_logits(config, student, teacher) * weights)

    value, gradient = jax.value_and_grad(ours)(student)
    theirs = torch.tensor(student, requires_grad=True)
    loss = trl(theirs, torch.tensor(teacher), beta, temperature, torch.tensor(weights))
    loss.backward()
    np.testing.assert_allclose(value, loss.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_all_tokens_kept_are_the_whole_divergence_and_fewer_are_at_most_it(beta):
    rng = np.random.default_rng(1)
    student, teacher = jnp.asarray(rng.normal(size=(2, 6, 9)), jnp.float32) * 2
    config = DistillationConfig(beta=beta, temperature=1.5)
    whole = from_logits(config, student, teacher)
    found = []
    for k in (9, 5, 2):
        logprobs, ids = jax.lax.top_k(jax.nn.log_softmax(teacher / 1.5), k)
        found.append(from_likeliest(config, student, ids, logprobs))
    np.testing.assert_allclose(found[0], whole, rtol=1e-4, atol=1e-6)
    assert bool((found[1] <= whole + 1e-6).all()) and bool((found[2] <= found[1] + 1e-6).all())


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, V, (B, T + 1)).astype(np.int32)
    weights = (rng.random((B, T)) < 0.8).astype(np.float32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    return Batch(ids[:, :-1], ids[:, 1:], weights, positions, None)


def parts(config, sharding, teacher_config=None):
    """Setup and parameters of a student, and a teacher."""
    compute = make_compute(sharding)
    setup = make_setup(config, compute, OptimizerConfig(), 10)
    other = make_setup(teacher_config or config, compute, OptimizerConfig(), 10)
    params = init_state(other, seed=1).params
    teacher = Model(other.model, compute, other.structure, params, 0)
    return setup, init_state(setup, seed=0).params, teacher


@pytest.mark.parametrize("mesh", [
    None, pytest.param({"fsdp": 4, "tensor": 2}, marks=pytest.mark.slow),
], ids=str)
def test_a_step_against_torch_and_the_kept_tokens_against_the_teacher(tiny, sharding_of, mesh):
    """The loss of real models, whose soft-caps differ; K = V kept tokens are the teacher itself."""
    sharding = sharding_of(**mesh) if mesh else single_device()
    config = dataclasses.replace(tiny["llama"], layers=1)
    capped = dataclasses.replace(config, width=16, logit_softcap=3.0)
    setup, params, teacher = parts(config, sharding, capped)
    options, batch = LossOptions(chunk=5), batch_of()
    batch = jax.tree.map(jnp.asarray, batch)
    mixed = DistillationConfig(teacher="t", weight=0.75)

    def run(passes, fixed, batch):
        def of(params):
            sums = passes(params, fixed, batch, KEY)
            return sums.loss, sums
        return jax.jit(jax.value_and_grad(of, has_aux=True))(params)

    passes = plain_passes(setup, options)
    (loss, sums), gradients = run(
        distilled(mixed, passes, teacher), Fixed(teacher=teacher.params), batch
    )
    (plain, _), _ = run(passes, Fixed(), batch)

    def logits(structure, params):
        model = bind(structure, params)
        return torch.tensor(np.asarray(model.logits(model.hidden(inputs_of(batch)))))

    expected = trl(
        logits(setup.structure, params), logits(teacher.structure, teacher.params), 0.5, 0.9,
        torch.tensor(np.asarray(batch.weights)),
    )
    np.testing.assert_allclose(loss, 0.75 * float(expected) + 0.25 * float(plain), rtol=1e-4)
    np.testing.assert_allclose(sums.nll, plain, rtol=1e-5)
    assert float(sums.weight) == float(batch.weights.sum())

    ids, logprobs = jax.jit(lambda p: likeliest(teacher, V, 0.9, p, batch))(teacher.params)
    kept = batch._replace(teacher_ids=ids, teacher_logprobs=logprobs)
    (same, _), other = run(distilled(mixed, passes), Fixed(), kept)
    np.testing.assert_allclose(same, loss, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.thorough
def test_weights_0_and_1(tiny):
    setup, _, teacher = parts(dataclasses.replace(tiny["llama"], layers=1), single_device())
    passes = plain_passes(setup, LossOptions())
    assert distilled(DistillationConfig("t", weight=0.0), passes, teacher) is passes
    only = distilled(DistillationConfig("t"), passes, teacher)
    sums = only(teacher.params, Fixed(teacher=teacher.params), batch_of(), KEY)
    assert abs(float(sums.loss)) < 1e-3 < float(sums.nll)  # its own teacher


def test_what_cannot_be_compared_is_refused(tiny):
    setup, _, _ = parts(tiny["llama"], single_device())
    passes = plain_passes(setup, LossOptions())
    _, _, bert = parts(tiny["bert"], single_device())
    with pytest.raises(UserError, match="masked_lm"):
        distilled(DistillationConfig("t"), passes, bert)
    with pytest.raises(UserError, match="another tokenizer"):
        check_tokenizer("t", "a" * 64, "b" * 64)
    for config, words in (
        (DistillationConfig(beta=0.3), "beta=0.3"),
        (DistillationConfig("t", "c"), "one of them"),
        (DistillationConfig("t", beta=1.5), "beta"),
        (DistillationConfig("t", temperature=0.0), "temperature"),
    ):
        with pytest.raises(UserError, match=words):
            check_distillation(config)
    check_distillation(DistillationConfig())
    check_distillation(DistillationConfig(cache="c", temperature=1.0))
