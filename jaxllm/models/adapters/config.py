"""What is attached to a model for fine-tuning, and what stays as it is. Imports no jax.

Names and defaults of LoRA are those of PEFT's LoraConfig.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from jaxllm.core.errors import UserError, unknown

METHODS = ("full", "lora")
QUANTIZATIONS = ("none", "nf4", "int8")
BIASES = ("none", "all", "lora_only")
INITIALISATIONS = ("default", "gaussian", "pissa")
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024).

    Modules are named as in the Hugging Face model of the family (q_proj) or as here
    (attention.query), by a regex for the end of the name from a dot on.
    """

    r: int = 8  # the rank
    lora_alpha: float = 8.0  # the adapter's output is scaled by lora_alpha / r
    lora_dropout: float = 0.0  # of the adapter's input
    bias: str = "none"  # which biases train: none | all | lora_only (those of adapted modules)
    # Matrices with an adapter; "all-linear": all of the layers; (): queries and values.
    target_modules: tuple[str, ...] = ()
    rank_pattern: tuple[str, ...] = ()  # "REGEX=RANK" for modules that differ; the first wins
    alpha_pattern: tuple[str, ...] = ()  # "REGEX=ALPHA"
    use_rslora: bool = False  # the scale is lora_alpha / √r
    use_dora: bool = False  # the length of each output's weights is learned apart
    # default: a random and b zero | gaussian: likewise with normal a | pissa: the largest singular
    # values of the base, which keeps the rest (Meng et al. 2024)
    init_lora_weights: str = "default"
    modules_to_save: tuple[str, ...] = ()  # modules that train whole


@dataclass(frozen=True)
class AdapterConfig:
    """What of a model trains."""

    method: str = "full"  # full: the parameters themselves | lora: adapters, the rest is frozen
    freeze: tuple[str, ...] = ()  # regexes of whole parameter paths that stay as they are
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: str = "none"  # of the matrices that stay as they are: none | nf4 | int8
    double_quantization: bool = True  # of nf4: its scales are quantised too

    def check(self, where: str) -> None:
        """Refuses names, numbers and combinations that mean nothing; `where` is the section's name.

        Raises:
          UserError: naming the field.
        """
        lora = self.lora
        for name, value, known in (
            ("method", self.method, METHODS), ("quantization", self.quantization, QUANTIZATIONS),
            ("lora.bias", lora.bias, BIASES),
            ("lora.init_lora_weights", lora.init_lora_weights, INITIALISATIONS),
        ):
            if value not in known:
                raise unknown(f"{where}.{name}", value, known)
        if self.method != "lora":
            if self.quantization != "none":
                raise UserError(
                    f"{where}.quantization={self.quantization!r} with {where}.method="
                    f"{self.method!r}: quantised weights cannot be trained themselves. Set "
                    f"{where}.method='lora', or {where}.quantization='none'."
                )
            if lora != LoraConfig():
                raise UserError(
                    f"{where}.lora has no effect with {where}.method={self.method!r}. Set "
                    f"{where}.method='lora', or leave {where}.lora as it is."
                )
        if not self.double_quantization and self.quantization != "nf4":
            raise UserError(
                f"{where}.double_quantization=False has no effect with {where}.quantization="
                f"{self.quantization!r}: it is about the scales of nf4. Leave it out."
            )
        if lora.r < 1:
            raise UserError(f"{where}.lora.r={lora.r} must be at least 1.")
        if not 0 < lora.lora_alpha < float("inf"):
            raise UserError(f"{where}.lora.lora_alpha={lora.lora_alpha} must be above 0.")
        if not 0 <= lora.lora_dropout < 1:
            raise UserError(
                f"{where}.lora.lora_dropout={lora.lora_dropout} must be at least 0 and below 1."
            )
        patterns(lora.rank_pattern, f"{where}.lora.rank_pattern", int)
        patterns(lora.alpha_pattern, f"{where}.lora.alpha_pattern", float)
        for name in ("target_modules", "modules_to_save"):
            for value in getattr(lora, name):
                compiled(value, f"{where}.lora.{name}")
        for value in self.freeze:
            compiled(value, f"{where}.freeze")


def patterns(entries: tuple[str, ...], field: str, kind: type) -> list[tuple[re.Pattern, float]]:
    """"REGEX=NUMBER" entries as pairs; `kind` is int or float.

    Raises:
      UserError: an entry has another form, or its number is not above 0.
    """
    found = []
    for entry in entries:
        regex, _, text = entry.rpartition("=")
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not regex or not 0 < number < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise UserError(
                f"{field}={entry!r} must be a regex, '=' and {what} above 0, such as "
                "'mlp.down=16'."
            )
        found.append((compiled(regex, field), number))
    return found


def compiled(regex: str, field: str) -> re.Pattern:
    """The compiled regex of a field.

    Raises:
      UserError: it is none.
    """
    try:
        return re.compile(regex)
    except re.error as error:
        raise UserError(f"{field}={regex!r} is no regular expression: {error}.") from error
