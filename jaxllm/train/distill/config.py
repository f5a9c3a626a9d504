"""The section `tune.distillation`. Names and defaults are those of TRL's GKD."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.config import check_ranges, reject_unread
from jaxllm.core.errors import UserError


@dataclass(frozen=True)
class DistillationConfig:
    """Learning from a teacher's predictions of the same tokens (Hinton et al. 2015; Agarwal et al.
    2024, generalised knowledge distillation, on given texts: lmbda 0).
    """

    teacher: str = ""  # as --model names it, evaluated in every step; "": none
    cache: str = ""  # what `jaxllm distill` wrote of a teacher, read instead of one
    # Of the divergence: 0 is KL(teacher‖student), forward KL; 1 is KL(student‖teacher), reverse KL;
    # between them the generalised Jensen-Shannon divergence.
    beta: float = 0.5
    temperature: float = 0.9  # that both's logits are divided by
    weight: float = 1.0  # share of the divergence in the loss; the rest is the targets' own
    top_k: int = 64  # likeliest tokens of each place that `jaxllm distill` keeps

    def given(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.teacher or self.cache)


def check_distillation(config: DistillationConfig, where: str = "tune.distillation") -> None:
    """Refuses numbers that mean nothing, and options without a teacher.

    Raises:
      UserError: naming the field.
    """
    if not config.given():
        reject_unread(
            config, {"teacher", "cache"}, f"{where} without a teacher", where,
            f"set {where}.teacher",
        )
    if config.teacher and config.cache:
        raise UserError(
            f"{where}.teacher={config.teacher!r} and {where}.cache={config.cache!r}: a run learns "
            "from one of them. Leave the teacher out to read the cache."
        )
    check_ranges(config, where, {
        "beta": "[0, 1]", "temperature": "(0, inf)", "weight": "[0, 1]", "top_k": "[1, inf)",
    })
