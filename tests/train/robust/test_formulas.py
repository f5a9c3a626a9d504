"""Each method against the papers' algorithms, written in torch after the authors' code.

The model is a toy that both sides have in three lines: embedded tokens, averaged over a text's own
tokens, times a matrix.
"""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxllm.core.errors import UserError
from jaxllm.data.batch import Batch
from jaxllm.nn.compute import make_compute
from jaxllm.train.losses import LossOptions, class_cross_entropy
from jaxllm.train.robust import methods
from jaxllm.train.robust.config import (
    FreelbConfig,
    NeftuneConfig,
    RdropConfig,
    RobustConfig,
    SmartConfig,
    check_robust,
)
from jaxllm.train.robust.methods import make_loss
from jaxllm.train.robust.noise import drawn, texts_of
from jaxllm.train.scores import Fixed, Passes, Scores

B, T, D, C, V = 3, 6, 4, 5, 11
LENGTHS = np.array([6, 4, 3])
KEY = jax.random.key(3)


def toy(rate=0.0):
    """Passes of the toy; `rate` drops averaged features."""
    def scores(params, fixed, batch, key, noise):
        x = params["table"][batch.inputs]
        if noise is not None:
            x = x + noise.own
        real = (batch.segment_ids != 0)[..., None]
        pooled = (x * real).sum(1) / real.sum(1)
        if rate:
            keep = jax.random.bernoulli(key, 1 - rate, pooled.shape)
            pooled = jnp.where(keep, pooled / (1 - rate), 0)
        return Scores(
            jnp.tanh(pooled) @ params["kernel"], batch.targets[:, 0], batch.weights[:, 0]
        )

    def loss(found, fixed, batch):
        return class_cross_entropy(found.values, found.targets, found.weights, LossOptions())

    zero = SimpleNamespace(dropout=0.0)
    model = SimpleNamespace(
        width=D, dropout=rate, embedding=zero, attention=zero, mlp=zero, head=zero,
        adapter=SimpleNamespace(lora=SimpleNamespace(lora_dropout=0.0)),
    )
    return Passes(model, make_compute(), LossOptions(), scores, loss)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (B, T)).astype(np.int32)
    segments = (np.arange(T) < LENGTHS[:, None]).astype(np.int32)
    targets = np.zeros((B, T), np.int32)
    targets[:, 0] = rng.integers(0, C, B)
    weights = np.zeros((B, T), np.float32)
    weights[:, 0] = [1.0, 0.5, 1.0]
    batch = Batch(ids, targets, weights, np.zeros((B, T), np.int32), segments)
    params = {
        "table": jnp.asarray(rng.normal(size=(V, D)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(D, C)), jnp.float32),
    }
    return params, batch


class Torch:
    """The toy in torch, the embedded tokens as an input."""

    def __init__(self, params, batch):
        self.table, self.kernel = (
            torch.tensor(np.asarray(params[n])).requires_grad_() for n in ("table", "kernel")
        )
        self.ids = torch.tensor(batch.inputs.astype(np.int64))
        self.mask = torch.tensor((batch.segment_ids != 0).astype(np.float32))
        self.labels = torch.tensor(batch.targets[:, 0].astype(np.int64))
        self.weights = torch.tensor(batch.weights[:, 0])

    def logits(self, delta=0.0):
        x = (F.embedding(self.ids, self.table) + delta) * self.mask[..., None]
        return torch.tanh(x.sum(1) / self.mask.sum(1, keepdim=True)) @ self.kernel

    def loss(self, logits):
        return (F.cross_entropy(logits, self.labels, reduction="none") * self.weights).sum()

    def gradients(self):
        return {"table": self.table.grad.numpy(), "kernel": self.kernel.grad.numpy()}


def ours(config, params, batch, passes=None, fixed=None):
    loss = make_loss(config, passes or toy())
    fixed = fixed or Fixed()

    def of(params):
        sums = loss(params, fixed, batch, KEY)
        return sums.loss, sums

    (_, sums), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(params)
    return sums, gradients


def assert_equal(found, expected, sums, loss, rtol=2e-5):
    np.testing.assert_allclose(sums.loss, loss.detach().numpy(), rtol=rtol)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def first_noise(batch, draw):
    key = jax.random.fold_in(KEY, methods.DRAWS)
    return torch.tensor(np.asarray(drawn(toy(), texts_of(batch), key, draw).own))


def test_neftune(case):
    """alpha / sqrt(L D) of the text's own length; no noise at padding."""
    params, batch = case
    alpha = 5.0
    sums, gradients = ours(
        RobustConfig("neftune", neftune=NeftuneConfig(alpha=alpha)), params, batch
    )
    noise = first_noise(batch, methods._uniform)
    assert noise.abs().max() <= 1 and not noise[1, 4:].any()
    assert 0.4 < noise[torch.tensor(batch.segment_ids != 0)].std() < 0.75  # 1/sqrt(3) = 0.58
    mag = torch.tensor([alpha / np.sqrt(n * D) for n in LENGTHS], dtype=torch.float32)
    model = Torch(params, batch)
    loss = model.loss(model.logits(noise * mag[:, None, None]))
    loss.backward()
    assert_equal(gradients, model.gradients(), sums, loss)
    assert float(sums.weight) == 2.5


@pytest.mark.parametrize("kind", ["l2", "linf"])
@pytest.mark.parametrize(("steps", "mag", "limit"), [(3, 0.3, 0.4), (2, 0.0, 0.05), (3, 0.2, 0.0)])
def test_freelb(case, kind, steps, mag, limit):
    """The loop of run_glue_freelb.py: normalise, ascend, project, mean of the gradients."""
    params, batch = case
    config = FreelbConfig(steps, 0.1, mag, limit, kind)
    sums, gradients = ours(RobustConfig("freelb", freelb=config), params, batch)
    model = Torch(params, batch)
    delta = first_noise(batch, methods._uniform) * mag
    if kind == "l2":
        delta = delta / torch.sqrt(model.mask.sum(1) * D)[:, None, None]
    total = 0.0
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        loss = model.loss(model.logits(delta)) / steps
        loss.backward()
        total = total + loss
        order = 2 if kind == "l2" else float("inf")
        size = torch.norm(delta.grad.view(B, -1), p=order, dim=1).clamp(min=1e-8)[:, None, None]
        delta = delta + 0.1 * delta.grad / size
        if limit and kind == "l2":
            length = torch.norm(delta.view(B, -1), dim=1)
            exceeds = (length > limit).float()
            delta = delta * (limit / length * exceeds + (1 - exceeds))[:, None, None]
        elif limit:
            delta = delta.clamp(-limit, limit)
    assert_equal(gradients, model.gradients(), sums, total)
    assert float(sums.weight) == 2.5


def symmetric(p, q, weights):
    p, q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    both = F.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    both = both + F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return (both * weights).sum()


@pytest.mark.parametrize("bregman", [0.0, 0.7])
@pytest.mark.parametrize("steps", [1, 2])
def test_smart(case, steps, bregman):
    """Algorithm 1, entries large enough for float32 to compare; the Bregman term to the anchor."""
    params, batch = case
    config = SmartConfig(2.0, 0.1, 0.05, 0.02, steps, bregman)
    anchor = jax.tree.map(lambda p: p + 0.1, params)
    sums, gradients = ours(
        RobustConfig("smart", smart=config), params, batch, fixed=Fixed(anchor=anchor)
    )
    model, other = Torch(params, batch), Torch(anchor, batch)
    clean = model.logits()
    noise = first_noise(batch, lambda key, shape: 0.05 * jax.random.normal(key, shape))
    for _ in range(steps):
        noise = noise.detach().requires_grad_()
        gradient, = torch.autograd.grad(
            symmetric(clean.detach(), model.logits(noise), model.weights), noise
        )
        size = gradient.abs().amax((1, 2), keepdim=True)
        noise = (noise + 0.02 * gradient / size).clamp(-0.1, 0.1)
    loss = model.loss(clean)
    loss = loss + 2.0 * symmetric(model.logits(noise.detach()), clean, model.weights)
    loss = loss + bregman * symmetric(clean, other.logits().detach(), model.weights)
    loss.backward()
    assert_equal(gradients, model.gradients(), sums, loss, rtol=1e-4)
    np.testing.assert_allclose(sums.nll, model.loss(clean).detach(), rtol=1e-5)


def test_smart_of_the_papers_size_still_finds_a_direction(case):
    params, batch = case
    sums, _ = ours(RobustConfig("smart", smart=SmartConfig(weight=1e6)), params, batch)
    plain, _ = ours(RobustConfig(), params, batch)
    assert float(sums.loss) > float(plain.loss)


@pytest.mark.thorough
def test_rdrop(case):
    params, batch = case
    passes = toy(rate=0.3)
    sums, gradients = ours(
        RobustConfig("rdrop", rdrop=RdropConfig(alpha=2.0)), params, batch, passes
    )

    def reference(params):
        keys = (KEY, jax.random.fold_in(KEY, methods.DRAWS))
        p, q = (
            jax.nn.log_softmax(passes.scores(params, Fixed(), batch, key, None).values)
            for key in keys
        )
        weights, rows = batch.weights[:, 0], np.arange(B)
        ce = -(weights * (p + q)[rows, batch.targets[:, 0]]).sum() / 2
        apart = (jnp.exp(p) * (p - q)).sum(-1) + (jnp.exp(q) * (q - p)).sum(-1)
        return ce + 2.0 * (weights * apart).sum() / 2

    np.testing.assert_allclose(sums.loss, reference(params), rtol=1e-5)
    assert abs(float(sums.loss) - float(sums.nll)) > 0.1  # the masks differ
    for name, value in jax.grad(reference)(params).items():
        np.testing.assert_allclose(gradients[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [
    RobustConfig(),
    RobustConfig("neftune", neftune=NeftuneConfig(alpha=0.0)),
    RobustConfig("freelb", freelb=FreelbConfig(adv_steps=1, adv_init_mag=0.0)),
    RobustConfig("freelb", freelb=FreelbConfig(adv_steps=3, adv_lr=0.0, adv_init_mag=0.0)),
    RobustConfig("smart", smart=SmartConfig(weight=0.0)),
    RobustConfig("rdrop", rdrop=RdropConfig(alpha=0.0)),
], ids=lambda c: c.name)
def test_strength_0_is_the_plain_loss(config):
    passes = toy(rate=0.1)
    assert make_loss(config, passes) is passes


def test_texts_of_a_packed_row_have_the_noise_of_rows_of_their_own(case):
    """Lengths and norms are of the document, wherever it stands."""
    _, batch = case
    segments = np.array([[1, 1, 2, 2, 2, 0]], np.int32)
    packed = texts_of(batch._replace(inputs=batch.inputs[:1], segment_ids=segments)).own
    x = np.random.default_rng(1).normal(size=(1, T, D)).astype(np.float32)
    lengths = np.asarray(methods.lengths(packed))[0, :, 0]
    assert lengths.tolist() == [2, 2, 3, 3, 3, 1]
    for kind, order in (("l2", None), ("linf", np.inf)):
        found = np.asarray(methods.norm(packed, x, kind))[0, :, 0]
        first = np.linalg.norm(x[0, :2].ravel(), order)
        second = np.linalg.norm(x[0, 2:5].ravel(), order)
        np.testing.assert_allclose(found[:5], [first] * 2 + [second] * 3, rtol=1e-6)


def test_what_has_no_effect_is_refused():
    with pytest.raises(UserError, match="dropout=0"):
        make_loss(RobustConfig("rdrop"), toy())
    coarse = dataclasses.replace(toy(), compute=make_compute(dtype="bfloat16"))
    with pytest.raises(UserError, match="bfloat16"):
        make_loss(RobustConfig("smart"), coarse)
    for config, words in (
        (RobustConfig("freelbb"), "Did you mean 'freelb'"),
        (RobustConfig("freelb", smart=SmartConfig(steps=2)), "tune.robust.name='smart'"),
        (RobustConfig("freelb", freelb=FreelbConfig(adv_steps=0)), "freelb.adv_steps=0"),
        (RobustConfig("freelb", freelb=FreelbConfig(norm_type="l1")), "norm_type='l1'"),
        (RobustConfig("neftune", neftune=NeftuneConfig(alpha=-1.0)), "neftune.alpha"),
    ):
        with pytest.raises(UserError, match=words.replace("(", r"\(")):
            check_robust(config)
    check_robust(RobustConfig("freelb", freelb=FreelbConfig(adv_steps=3)))
