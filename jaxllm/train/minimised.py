"""What a run's step minimises: its targets' loss, a teacher's predictions, robust to perturbations.
"""

from __future__ import annotations

from jaxllm.models.saved import Model
from jaxllm.train.distill.loss import distilled
from jaxllm.train.losses import LossOptions
from jaxllm.train.robust.methods import make_loss
from jaxllm.train.scores import Loss, plain_passes
from jaxllm.train.state import Setup
from jaxllm.train.tune import TuneConfig


def step_loss(
    tune: TuneConfig, setup: Setup, options: LossOptions, teacher: Model | None = None
) -> Loss:
    """The loss that the section `tune` describes, of a run with this setup.

    `teacher` is the model of `tune.distillation.teacher`: what is static of it. Its parameters, and
    those that SMART compares with, come with every call (`Fixed`).

    Raises:
      UserError: a method or a teacher that does not go with the model.
    """
    passes = plain_passes(setup, options)
    if tune.distillation.given():
        passes = distilled(tune.distillation, passes, teacher)
    return make_loss(tune.robust, passes)
