"""The section `tune`: which parameters train, from what base, and what must not be forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxllm.core.config import check_ranges, reject_unread
from jaxllm.core.errors import UserError, unknown
from jaxllm.data.config import ReplayedSource, SourceConfig
from jaxllm.models.adapters.config import AdapterConfig, LoraConfig
from jaxllm.train.distill.config import DistillationConfig, check_distillation
from jaxllm.train.robust.config import RobustConfig, check_robust

REPLAY = "replay"  # the name of its source in the mixture
ACTIONS = ("report", "stop", "restore")


@dataclass(frozen=True)
class ReplayConfig:
    """General data mixed into the run's own, so that what the base knew is seen again."""

    path: str = ""  # as of a source of data.mixture; "": no replay
    share: float = 0.1  # of the run's examples


@dataclass(frozen=True)
class GuardConfig:
    """Data on which the base's loss is measured before, during and after: the forgetting guard."""

    data: tuple[str, ...] = ()  # as of sources of data.mixture; their validation part is read
    tolerance: float = 0.1  # nats per target that a loss may rise above the base's
    # Once it rose by more: report (says so) | stop (the run ends there) | restore (the run ends
    # with the parameters of its lowest validation loss while no set was over the tolerance).
    action: str = "report"


@dataclass(frozen=True)
class TuneConfig:
    """Fine-tuning of the model that `train.init_from` names. Names and defaults are PEFT's."""

    method: str = "full"  # full | lora
    freeze: tuple[str, ...] = ()  # patterns of parameters that stay as they are (regex, whole name)
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: str = "none"  # none | nf4 | int8, of the base that adapters are trained on
    double_quantization: bool = True  # of nf4: its scales are quantised too
    # λ/2 · |θ - base|² added to the loss per target (L2-SP, Li et al. 2018); 0: off
    l2_to_base: float = 0.0
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def adapter(self) -> AdapterConfig:
        """What is attached to the model."""
        names = {part.name for part in dataclasses.fields(AdapterConfig)}
        return AdapterConfig(**{name: getattr(self, name) for name in names})


def check_tune(tune: TuneConfig, init_from: str) -> None:
    """Refuses values that cannot work, or that nothing reads.

    Raises:
      UserError: naming the field.
    """
    check_ranges(tune, "tune", {"l2_to_base": "[0, inf)", "guard.tolerance": "[0, inf)"})
    tune.adapter().check("tune")
    if tune.guard.action not in ACTIONS:
        raise unknown("tune.guard.action", tune.guard.action, ACTIONS)
    for name, section, needed in (("replay", tune.replay, "path"), ("guard", tune.guard, "data")):
        if not getattr(section, needed):
            where = f"tune.{name}"
            fix = f"set {where}.{needed}"
            reject_unread(section, {needed}, f"a run without {where}.{needed}", where, fix)
    check_robust(tune.robust)
    check_distillation(tune.distillation)
    if init_from:
        return
    for name, is_set in (
        ("method", tune.method != "full"), ("freeze", bool(tune.freeze)),
        ("l2_to_base", tune.l2_to_base > 0), ("guard.data", bool(tune.guard.data)),
        ("robust.smart.bregman", tune.robust.needs_anchor()),
    ):
        if is_set:
            raise UserError(
                f"tune.{name} needs a model to start from: set train.init_from to a run directory "
                "or a Hugging Face folder."
            )


def with_replay(mixture: Mapping[str, SourceConfig], replay: ReplayConfig) -> dict:
    """The sources with the one that is replayed, at its share of the examples.

    Raises:
      UserError: a source has its name, there is nothing else to train on, or no such share.
    """
    if not replay.path:
        return dict(mixture)
    if REPLAY in mixture:
        raise UserError(
            f"data.mixture.{REPLAY} and tune.replay.path={replay.path!r} name the same source "
            "twice: remove one of them."
        )
    if not mixture:
        raise UserError(
            "tune.replay.path is mixed into data.mixture, which is empty: name the run's own data "
            "there."
        )
    check_ranges(replay, "tune.replay", {"share": "(0, 1)"})
    own = sum(source.weight for source in mixture.values() if source.weight > 0)
    weight = own * replay.share / (1 - replay.share)
    return {**mixture, REPLAY: ReplayedSource(replay.path, weight)}
