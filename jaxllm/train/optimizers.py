"""optax optimizers and schedules by name, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxllm.core.config import reject_unread
from jaxllm.core.errors import UserError, unknown
from jaxllm.models.parameters import is_spec
from jaxllm.nn.compute import DTYPES, as_dtype
from jaxllm.nn.module import Params, ParamSpec
from jaxllm.train.config import OptimizerConfig

Schedule = Callable[[Any], jax.Array]

PLACEMENTS = ("device", "host")
MOMENT_DTYPES = tuple(name for name in DTYPES if name != "auto")
_ALWAYS = {"name", "learning_rate", "schedule", "warmup_steps", "max_grad_norm", "placement"}
_DECAY = {"weight_decay", "decay_embeddings"}


def make_optimizer(
    config: OptimizerConfig, steps: int, specs: Params
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer (gradient clipping apart) and the schedule that it follows.

    Raises:
      UserError: an unknown name, or a field set that the choice does not read.
    """
    if config.name not in OPTIMIZERS:
        raise unknown("optimizer.name", config.name, OPTIMIZERS)
    if config.schedule not in SCHEDULES:
        raise unknown("optimizer.schedule", config.schedule, SCHEDULES)
    if config.placement not in PLACEMENTS:
        raise unknown("optimizer.placement", config.placement, PLACEMENTS)
    if config.moment_dtype not in MOMENT_DTYPES:
        raise unknown("optimizer.moment_dtype", config.moment_dtype, MOMENT_DTYPES)
    shape, shape_reads = SCHEDULES[config.schedule]
    build, build_reads = OPTIMIZERS[config.name]
    owner = f"optimizer.name={config.name!r} with optimizer.schedule={config.schedule!r}"
    reject_unread(config, _ALWAYS | shape_reads | build_reads, owner, "optimizer")
    if not 0 <= config.warmup_steps <= steps:
        raise UserError(
            f"optimizer.warmup_steps={config.warmup_steps} must lie between 0 and "
            f"train.steps={steps}. Set --config.optimizer.warmup_steps={max(steps // 10, 0)}, say, "
            "or raise train.steps."
        )
    schedule = _with_warmup(shape(config, steps), config)
    return build(config, schedule, specs), schedule


def decays(specs: Params, config: OptimizerConfig) -> Params:
    """True for the parameters that weight decay shrinks: kernels, embeddings when asked."""
    names = {"kernel", "table"} if config.decay_embeddings else {"kernel"}
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: path[-1].key in names, specs, is_leaf=is_spec
    )


def clip_factor(norm: jax.Array, limit: float) -> jax.Array:
    """What gradients of this global norm are multiplied by so that it is at most `limit`."""
    return jnp.where(norm > limit, limit / norm, 1.0) if limit else jnp.float32(1.0)


def _adamw(config: OptimizerConfig, schedule: Schedule, specs: Params):
    return optax.adamw(
        schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay,
        mask=decays(specs, config), mu_dtype=as_dtype(config.moment_dtype),
    )


def _lion(config: OptimizerConfig, schedule: Schedule, specs: Params):
    return optax.lion(
        schedule, config.b1, config.b2, weight_decay=config.weight_decay,
        mask=decays(specs, config), mu_dtype=as_dtype(config.moment_dtype),
    )


def _adafactor(config: OptimizerConfig, schedule: Schedule, specs: Params):
    # optax multiplies its decay rate by nothing, ours means a share of the learning rate as in
    # adamw: the decoupled decay is added where adamw adds it.
    return optax.chain(
        optax.adafactor(None, multiply_by_parameter_scale=False),
        # adafactor without a learning rate already points downhill
        optax.add_decayed_weights(-config.weight_decay, mask=decays(specs, config)),
        optax.scale_by_schedule(schedule),
    )


def _sgd(config: OptimizerConfig, schedule: Schedule, specs: Params):
    return optax.chain(
        optax.trace(config.momentum, accumulator_dtype=as_dtype(config.moment_dtype)),
        optax.add_decayed_weights(config.weight_decay, mask=decays(specs, config)),
        optax.scale_by_learning_rate(schedule),
    )


def _muon(config: OptimizerConfig, schedule: Schedule, specs: Params):
    """Muon on the layers' matrices, AdamW on the rest (Jordan et al. 2024; Liu et al. 2025).

    Updates are scaled to AdamW's root mean square, so that learning rates carry over.
    """
    return optax.contrib.muon(
        schedule, beta=config.momentum, eps=config.eps, adam_b1=config.b1, adam_b2=config.b2,
        weight_decay=config.weight_decay, weight_decay_mask=decays(specs, config),
        mu_dtype=as_dtype(config.moment_dtype), consistent_rms=0.2,
        muon_weight_dimension_numbers=jax.tree.map(_muon_axes, specs, is_leaf=is_spec),
    )


def _muon_axes(spec: ParamSpec):
    if spec.inputs == 0 or "vocab" in spec.axes:
        return None  # embeddings, output projection, norms and biases stay with AdamW
    first = 1 if spec.axes[0] == "layers" else 0
    inputs = tuple(range(first, first + spec.inputs))
    outputs = tuple(range(first + spec.inputs, len(spec.shape)))
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


_ADAM = _DECAY | {"b1", "b2", "eps", "moment_dtype"}

# name: (constructor, the fields it reads)
OPTIMIZERS = {
    "adamw": (_adamw, _ADAM),
    "adafactor": (_adafactor, _DECAY),
    "lion": (_lion, _ADAM - {"eps"}),
    "muon": (_muon, _ADAM | {"momentum"}),
    "sgd": (_sgd, _DECAY | {"momentum", "moment_dtype"}),
}


def _constant(config: OptimizerConfig, steps: int) -> Schedule:
    return lambda step: jnp.ones_like(step, jnp.float32)


def _linear(config: OptimizerConfig, steps: int) -> Schedule:
    final = config.final_fraction
    return lambda step: 1.0 - (1.0 - final) * _progress(step, config.warmup_steps, steps)


def _cosine(config: OptimizerConfig, steps: int) -> Schedule:
    final = config.final_fraction

    def schedule(step):
        done = _progress(step, config.warmup_steps, steps)
        return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(math.pi * done))

    return schedule


def _wsd(config: OptimizerConfig, steps: int) -> Schedule:
    """Warm-up, stable, linear decay at the end (Hu et al. 2024, MiniCPM)."""
    start = max(config.warmup_steps, round(steps * (1.0 - config.decay_fraction)))
    final = config.final_fraction
    return lambda step: 1.0 - (1.0 - final) * _progress(step, start, steps)


def _rsqrt(config: OptimizerConfig, steps: int) -> Schedule:
    """Inverse square root of the step after the warm-up (Raffel et al. 2020, T5)."""
    reference = max(config.warmup_steps, 1)
    return lambda step: jnp.sqrt(reference / jnp.maximum(step, reference).astype(jnp.float32))


# name: (shape over [warmup, steps] with peak 1, the fields it reads)
SCHEDULES = {
    "constant": (_constant, set()),
    "linear": (_linear, {"final_fraction"}),
    "cosine": (_cosine, {"final_fraction"}),
    "wsd": (_wsd, {"final_fraction", "decay_fraction"}),
    "rsqrt": (_rsqrt, set()),
}


def _progress(step, start: int, stop: int):
    return jnp.clip((step - start) / max(stop - start, 1), 0.0, 1.0)


def _with_warmup(shape: Schedule, config: OptimizerConfig) -> Schedule:
    """Step 0 of a warm-up of n already moves: its rate is peak / (n + 1)."""

    def schedule(step):
        warm = (step + 1) / float(config.warmup_steps + 1)  # which int32 need not hold
        return config.learning_rate * jnp.where(
            step < config.warmup_steps, warm, shape(jnp.asarray(step))
        ).astype(jnp.float32)

    return schedule

