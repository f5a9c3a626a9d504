"""NEFTune, FreeLB, SMART and R-Drop as losses around the passes of a step.

Each takes its options and the step's `Passes` and gives a loss of (params, fixed, batch, key). Of
the key, dropout takes what the plain step would; what a method draws besides is folded from it.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.core.errors import UserError
from jaxllm.train.divergence import symmetric_kl, weighted_sum
from jaxllm.train.losses import LossSums
from jaxllm.train.robust.config import (
    FreelbConfig,
    NeftuneConfig,
    RdropConfig,
    RobustConfig,
    SmartConfig,
)
from jaxllm.train.robust.noise import TINY, drawn, lengths, norm, over_sides, texts_of
from jaxllm.train.scores import Fixed, Loss, Noise, Passes, Scores, drops

DRAWS = 0x5AFE  # folded into the step's key for what a method draws
LEAST_IN_BFLOAT16 = 1e-4  # entries that still move an embedding of stddev 0.02, of spacing 2**-14


def make_loss(config: RobustConfig, passes: Passes) -> Loss:
    """The loss of the method that `config` names; with strength 0 it is `passes` itself.

    Raises:
      UserError: a method that has no effect on this model, or at this precision.
    """
    if config.name == "none":
        return passes
    method, options = {
        "neftune": (neftune, config.neftune), "freelb": (freelb, config.freelb),
        "smart": (smart, config.smart), "rdrop": (rdrop, config.rdrop),
    }[config.name]
    return method(options, passes)


def neftune(config: NeftuneConfig, passes: Passes) -> Loss:
    """The loss with noise of alpha / sqrt(L · D) · U(-1, 1) on the embedded tokens.

    L counts the text's own tokens, as in the authors' code: padding changes nothing (Jain et al.
    2023, algorithm 1).
    """
    if config.alpha == 0:
        return passes

    def loss(params, fixed, batch, key):
        texts = texts_of(batch)
        noise = drawn(passes, texts, jax.random.fold_in(key, DRAWS), _uniform)
        width = passes.model.width
        noise = over_sides(
            lambda texts, x: x * (config.alpha * jax.lax.rsqrt(lengths(texts) * width)),
            texts, noise,
        )
        return passes(params, fixed, batch, key, noise)

    return loss


def freelb(config: FreelbConfig, passes: Passes) -> Loss:
    """The mean loss over K ascent steps of a perturbation, with the mean of their gradients.

    Every pass gives the gradient of the parameters and, for the next, that of the perturbation
    (Zhu et al. 2020, algorithm 1). All passes have the same dropout (section 3.3). The gradient is
    computed along with the loss: differentiate the result once, with respect to `params`.
    """
    if config.adv_init_mag == 0 and (config.adv_steps == 1 or config.adv_lr == 0):
        return passes

    def loss(params, fixed, batch, key):
        texts = texts_of(batch)
        first = _start(config, passes, texts, jax.random.fold_in(key, DRAWS))

        def of(params, noise: Noise):
            sums = passes(params, fixed, batch, key, noise)
            return sums.loss, sums

        @jax.custom_vjp
        def mean(params, first):
            return run(params, first)[0]

        def run(params, first):
            def step(carry, _):
                noise, sums, gradients = carry
                (_, now), (added, ascent) = jax.value_and_grad(of, (0, 1), has_aux=True)(
                    params, noise
                )
                sums, gradients = jax.tree.map(
                    lambda total, x: total + x.astype(jnp.float32), (sums, gradients), (now, added)
                )
                noise = over_sides(partial(_ascended, config), texts, noise, ascent)
                return (noise, sums, gradients), None

            zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
            start = (first, LossSums(*(jnp.float32(0),) * 4), zeros)
            (_, sums, gradients), _ = jax.lax.scan(step, start, length=config.adv_steps)
            gradients = jax.tree.map(
                lambda g, p: (g / config.adv_steps).astype(p.dtype), gradients, params
            )
            return jax.tree.map(lambda x: x / config.adv_steps, sums), gradients

        def backward(gradients, cotangents):
            scale = cotangents.loss  # the other sums are for reading
            return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients), None

        mean.defvjp(run, backward)
        return mean(params, first)

    return loss


def _start(config: FreelbConfig, passes: Passes, texts: Noise, key: jax.Array) -> Noise:
    """adv_init_mag · U(-1, 1) for linf, divided by sqrt(L · D) for l2."""
    noise = drawn(passes, texts, key, _uniform)

    def sized(texts, x):
        dims = lengths(texts) * passes.model.width if config.norm_type == "l2" else 1.0
        return x * (config.adv_init_mag * jax.lax.rsqrt(dims))

    return over_sides(sized, texts, noise)


def _ascended(config: FreelbConfig, texts, x_BTD: jax.Array, gradient_BTD: jax.Array) -> jax.Array:
    """One step up the gradient, of length adv_lr in the norm, back to a norm of adv_max_norm."""
    size = norm(texts, gradient_BTD, config.norm_type)
    x_BTD = x_BTD + config.adv_lr * gradient_BTD / jnp.maximum(size, TINY)
    limit = config.adv_max_norm
    if not limit:
        return x_BTD
    if config.norm_type == "linf":
        return jnp.clip(x_BTD, -limit, limit)
    return x_BTD * jnp.minimum(1.0, limit / jnp.maximum(norm(texts, x_BTD, "l2"), TINY))


def smart(config: SmartConfig, passes: Passes) -> Loss:
    """The loss, λ times how far the predictions move under the worst small perturbation, and μ
    times how far they moved from the anchor's; both symmetric KL divergences.

    Algorithm 1 of Jiang et al. 2020. Its Bregman term compares with a moving average of the
    parameters; here with those that the run starts from, `Fixed.anchor`, which need no state.
    """
    if config.weight == 0 and config.bregman == 0:
        return passes
    _check_precision(config, passes)

    def moved(one: Scores, other: Scores) -> jax.Array:
        sides = ((one, passes.options), (other, passes.options))
        return weighted_sum(symmetric_kl, sides, passes.compute)

    def perturbation(params, fixed, batch, key, clean: Scores) -> Noise:
        texts = texts_of(batch)
        params, clean = jax.lax.stop_gradient((params, clean))

        def up(noise: Noise) -> jax.Array:
            return moved(clean, passes.scores(params, fixed, batch, key, noise))

        def step(noise: Noise, _):
            return over_sides(partial(_projected, config), texts, noise, jax.grad(up)(noise)), None

        def normal(key, shape):
            return config.noise_stddev * jax.random.normal(key, shape)

        first = drawn(passes, texts, jax.random.fold_in(key, DRAWS), normal)
        return jax.lax.stop_gradient(jax.lax.scan(step, first, length=config.steps)[0])

    def loss(params, fixed: Fixed, batch, key):
        clean = passes.scores(params, fixed, batch, key, None)
        sums = passes.loss(clean, fixed, batch)
        total = sums.loss
        if config.weight:
            noise = perturbation(params, fixed, batch, key, clean)
            adversarial = passes.scores(params, fixed, batch, key, noise)
            total = total + config.weight * moved(adversarial, clean)
        if config.bregman:
            anchor = passes.scores(fixed.anchor, fixed, batch, key, None)
            total = total + config.bregman * moved(clean, jax.lax.stop_gradient(anchor))
        return sums._replace(loss=total)

    return loss


def _projected(config: SmartConfig, texts, x_BTD: jax.Array, gradient_BTD: jax.Array) -> jax.Array:
    """One step up the gradient over its largest entry, cut to ± epsilon."""
    size = norm(texts, gradient_BTD, "linf")
    # the divergence is flat where predictions agree: gradients of 1e-9 have a direction still
    x_BTD = x_BTD + config.step_size * gradient_BTD / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)
    return jnp.clip(x_BTD, -config.epsilon, config.epsilon)


def _check_precision(config: SmartConfig, passes: Passes) -> None:
    """Refuses a perturbation that rounding takes away."""
    coarse = passes.compute.dtype == jnp.bfloat16
    if config.weight and coarse and config.epsilon < LEAST_IN_BFLOAT16:
        raise UserError(
            f"tune.robust.smart.epsilon={config.epsilon:g}: in bfloat16 such a perturbation is "
            "lost in the rounding of the embedded tokens. Set train.dtype='float32', or "
            "tune.robust.smart.epsilon=1e-3 with tune.robust.smart.noise_stddev=1e-3."
        )


def rdrop(config: RdropConfig, passes: Passes) -> Loss:
    """The mean loss of two passes with different dropout, and alpha times the mean of both KL
    divergences between them (Liang et al. 2021, equations 2 to 4, with the mean of the two losses
    for their sum as in the authors' code).
    """
    if config.alpha == 0:
        return passes
    if not drops(passes.model):
        raise UserError(
            "tune.robust.name='rdrop' compares two passes with different dropout, and the model "
            "has none: set model.dropout=0.1, or choose another method."
        )

    def loss(params, fixed, batch, key):
        keys = (key, jax.random.fold_in(key, DRAWS))
        both = [passes.scores(params, fixed, batch, one, None) for one in keys]
        sums = jax.tree.map(
            lambda a, b: (a + b) / 2, *(passes.loss(one, fixed, batch) for one in both)
        )
        apart = weighted_sum(
            symmetric_kl, [(one, passes.options) for one in both], passes.compute
        )
        return sums._replace(loss=sums.loss + config.alpha * apart / 2)

    return loss


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
