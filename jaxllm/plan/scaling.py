"""Scaling laws: the best parameters N and tokens D for a training budget C = 6 N D.

Hoffmann et al. 2022 (Chinchilla, arXiv:2203.15556) estimated them in three ways. Approaches 1 and
2 give power laws, taken here through the row of 1B parameters of their table A3. Approach 3 is
L(N, D) = E + A / N^alpha + B / D^beta; Besiroglu et al. 2024 (arXiv:2404.10102) fitted it again to
the same runs and corrected its coefficients. All are of dense decoders on web text, trained once
through, with a cosine schedule as long as the run; losses are in nats per token of their tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.core.errors import UserError, nearest

PETAFLOP_DAY = 1e15 * 86_400  # FLOPs of a petaFLOP/s-day


@dataclass(frozen=True)
class Optimum:
    """The best use of a budget by one approach."""

    approach: str
    parameters: float
    tokens: float
    loss: float | None  # predicted, where the approach predicts one


@dataclass(frozen=True)
class PowerLaw:
    """N = N1 · (C / C1)^exponent, and D = C / 6 N."""

    exponent: float
    parameters: float  # N1
    flops: float  # C1

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) for a budget."""
        parameters = self.parameters * (flops / self.flops) ** self.exponent
        return parameters, flops / (6 * parameters)


@dataclass(frozen=True)
class ParametricLoss:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The predicted loss, nats per token."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of least loss with 6 N D = `flops` (Hoffmann et al. 2022, equation 4)."""
        total = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        parameters = scale * (flops / 6) ** (self.beta / total)
        return parameters, flops / (6 * parameters)


HOFFMANN = ParametricLoss(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BESIROGLU = ParametricLoss(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)

APPROACHES: dict[str, PowerLaw | ParametricLoss] = {
    "Hoffmann 1: envelope of training curves": PowerLaw(0.50, 1e9, 1.21e20),
    "Hoffmann 2: IsoFLOP profiles": PowerLaw(0.49, 1e9, 1.20e20),
    "Hoffmann 3: parametric loss as printed": HOFFMANN,
    "Besiroglu: parametric loss corrected": BESIROGLU,
}
ADVISED = "Besiroglu: parametric loss corrected"


def optimum(approach: str, flops: float) -> Optimum:
    """The best N and D for `flops` by one of APPROACHES.

    Raises:
      UserError: an unknown approach, or a budget that is not above 0.
    """
    if approach not in APPROACHES:
        raise UserError(f"approach={approach!r} is unknown. {nearest(approach, APPROACHES)}")
    if not 0 < flops < float("inf"):
        raise UserError(f"A budget of {flops} FLOPs must be a number above 0.")
    law = APPROACHES[approach]
    parameters, tokens = law.optimum(flops)
    loss = law.loss(parameters, tokens) if isinstance(law, ParametricLoss) else None
    return Optimum(approach, parameters, tokens, loss)


def optima(flops: float) -> list[Optimum]:
    """`optimum` by every approach."""
    return [optimum(approach, flops) for approach in APPROACHES]


def budget_flops(
    *, flops: float = 0.0, chip_days: float = 0.0, money: float = 0.0,
    price_per_chip_hour: float | None = None, chip_peak: float = 0.0, mfu: float = 0.0,
) -> float:
    """FLOPs that a budget buys: as given, or chips times their peak times the MFU they reach.

    Exactly one of `flops`, `chip_days` and `money` is above 0.

    Raises:
      UserError: none or several are given, or money without a price.
    """
    given = {"--budget_flops": flops, "--budget_chip_days": chip_days, "--budget_dollars": money}
    wrong = [f"{name}={value}" for name, value in given.items() if value < 0]
    if wrong:
        raise UserError(f"{wrong[0]} must be above 0.")
    if sum(value > 0 for value in given.values()) != 1:
        raise UserError(f"Give one budget: {', '.join(given)}.")
    if flops:
        return flops
    if money:
        if not price_per_chip_hour:
            raise UserError(
                f"--budget_dollars={money:g}: the price table has no price of this chip on these "
                "terms. Choose other --terms, or give one with --prices=FILE."
            )
        chip_days = money / price_per_chip_hour / 24
    return chip_days * 86_400 * chip_peak * mfu
