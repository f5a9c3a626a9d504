"""The section `tune.robust`: one table of options for all methods, in the papers' terms."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxllm.core.config import check_ranges, reject_unread
from jaxllm.core.errors import unknown


@dataclass(frozen=True)
class NeftuneConfig:
    """NEFTune (Jain et al. 2023): uniform noise of embedded tokens."""

    alpha: float = 5.0  # noise is uniform in ± alpha / sqrt(L · D); TRL's neftune_noise_alpha


@dataclass(frozen=True)
class FreelbConfig:
    """FreeLB (Zhu et al. 2020); names of the authors' code, values of its MNLI runs with BERT."""

    adv_steps: int = 2  # K, passes whose gradients are averaged
    adv_lr: float = 0.1  # α, length of an ascent step in the norm
    adv_init_mag: float = 0.3  # of the first perturbation; 0: the first pass is clean
    adv_max_norm: float = 0.4  # ε, that a perturbation's norm is cut to; 0: no limit
    norm_type: str = "l2"  # l2 | linf, of a text's whole perturbation


@dataclass(frozen=True)
class SmartConfig:
    """SMART (Jiang et al. 2020), values of its section 4."""

    weight: float = 1.0  # λ_s, of the smoothness-inducing regulariser
    epsilon: float = 1e-5  # largest entry of a perturbation
    noise_stddev: float = 1e-5  # σ, of the first perturbation
    step_size: float = 1e-3  # η, of an ascent step
    steps: int = 1  # T_x̃, ascent steps
    bregman: float = 0.0  # μ, of the divergence from the parameters that the run starts from


@dataclass(frozen=True)
class RdropConfig:
    """R-Drop (Liang et al. 2021): two passes with different dropout agree."""

    alpha: float = 1.0  # of the mean of both KL divergences


@dataclass(frozen=True)
class RobustConfig:
    """Which method, and its options; those of the other methods stay as they are."""

    name: str = "none"  # none | neftune | freelb | smart | rdrop
    neftune: NeftuneConfig = field(default_factory=NeftuneConfig)
    freelb: FreelbConfig = field(default_factory=FreelbConfig)
    smart: SmartConfig = field(default_factory=SmartConfig)
    rdrop: RdropConfig = field(default_factory=RdropConfig)

    def needs_anchor(self) -> bool:
        """Whether the loss reads the parameters that the run starts from (`Fixed.anchor`)."""
        return self.name == "smart" and self.smart.bregman > 0


METHODS = ("none", "neftune", "freelb", "smart", "rdrop")
NORMS = ("l2", "linf")
RANGES = {
    "neftune.alpha": "[0, inf)", "freelb.adv_steps": "[1, inf)", "freelb.adv_lr": "[0, inf)",
    "freelb.adv_init_mag": "[0, inf)", "freelb.adv_max_norm": "[0, inf)",
    "smart.weight": "[0, inf)", "smart.epsilon": "(0, inf)", "smart.noise_stddev": "(0, inf)",
    "smart.step_size": "(0, inf)", "smart.steps": "[1, inf)", "smart.bregman": "[0, inf)",
    "rdrop.alpha": "[0, inf)",
}


def check_robust(config: RobustConfig, where: str = "tune.robust") -> None:
    """Refuses an unknown method, numbers that mean nothing, and options of another method.

    Raises:
      UserError: naming the field.
    """
    if config.name not in METHODS:
        raise unknown(f"{where}.name", config.name, METHODS)
    for method in METHODS[1:]:
        if method != config.name:
            reject_unread(
                getattr(config, method), set(), f"{where}.name={config.name!r}",
                f"{where}.{method}", f"set {where}.name={method!r}",
            )
    check_ranges(config, where, RANGES)
    if config.freelb.norm_type not in NORMS:
        raise unknown(f"{where}.freelb.norm_type", config.freelb.norm_type, NORMS)
