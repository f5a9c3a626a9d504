"""The configuration of a model: a preset of a family, and what a recipe changes in it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field

from ml_collections import ConfigDict, config_dict

from jaxllm.core.config import apply_overlay, overlay
from jaxllm.core.errors import UserError, unknown
from jaxllm.nn.config import AttentionConfig, InitConfig, MlpConfig, NormConfig, PositionConfig


@dataclass(frozen=True)
class ModelConfig:
    """One Transformer decoder. Sizes are in elements; 0 in a rate or cap turns it off."""

    family: str = "llama"  # a file of models/families
    vocab_size: int = 0  # rows of the embedding; 0: the tokenizer's size
    width: int = 512
    layers: int = 8
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    positions: PositionConfig = field(default_factory=PositionConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    init: InitConfig = field(default_factory=InitConfig)
    tied: bool = False  # the output projection is the embedding
    dropout: float = 0.0  # of the embedding and of each sublayer's output
    logit_softcap: float = 0.0

    def completed(self) -> ModelConfig:
        """The same with heads and sizes that follow from others filled in, checked.

        Raises:
          UserError: sizes that contradict each other.
        """
        if self.family not in _families():
            raise unknown("model.family", self.family, _families())
        attention, heads = self.attention, self.attention.heads
        kv_heads = attention.kv_heads or heads
        if heads < 1 or heads % kv_heads:
            raise UserError(
                f"model.attention.heads={heads} must be a multiple of "
                f"model.attention.kv_heads={kv_heads}."
            )
        if not attention.head_dim and self.width % heads:
            raise UserError(
                f"model.width={self.width} is no multiple of model.attention.heads={heads}: "
                f"use a width of {self.width // heads * heads or heads}, or set "
                "model.attention.head_dim."
            )
        head_dim = attention.head_dim or self.width // heads
        if self.positions.kind == "rope" and head_dim % 2:
            raise UserError(f"RoPE needs an even model.attention.head_dim, not {head_dim}.")
        if self.positions.kind not in POSITIONS:
            raise unknown("model.positions.kind", self.positions.kind, POSITIONS)
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)} must be at least 1.")
        attention = dataclasses.replace(attention, kv_heads=kv_heads, head_dim=head_dim)
        return dataclasses.replace(self, attention=attention)

    def check_length(self, length: int, field: str) -> None:
        """Refuses rows of `length` tokens (`field` says whose) that learned positions end before.

        Raises:
          UserError: with the length that fits.
        """
        most = self.positions.max_length
        if self.positions.kind == "learned" and length > most:
            raise UserError(
                f"{field}={length} is longer than the model's {most} learned positions. Shorten it "
                f"to {most}, or train with a larger model.positions.max_length (the table is then "
                "a new one)."
            )


POSITIONS = ("rope", "learned", "none")


def model_section() -> ConfigDict:
    """The `model` section of a recipe: a preset's name, and every field open to change."""
    section = overlay(ModelConfig)
    section.preset = config_dict.placeholder(str)
    return section


def resolve_model(section: ConfigDict, base: ModelConfig | None = None) -> ModelConfig:
    """The preset (or `base`, the model that a run starts from) with the section's changes.

    Raises:
      UserError: an unknown preset or field.
    """
    changes = {name: section[name] for name in section if name != "preset"}
    if section.get("preset") is not None:
        base = preset(section.preset)
    return apply_overlay(base or ModelConfig(), changes, "model").completed()


def preset(name: str) -> ModelConfig:
    """The published or sample configuration of this name.

    Raises:
      UserError: no family has it; the nearest names are given.
    """
    known = presets()
    if name not in known:
        raise unknown("model.preset", name, known)
    return known[name]


def presets() -> dict[str, ModelConfig]:
    """Every preset of every family, by name."""
    found: dict[str, ModelConfig] = {}
    for name in _families():
        found.update(importlib.import_module(f"jaxllm.models.families.{name}").PRESETS)
    return found


def _families() -> list[str]:
    from jaxllm.models import families

    return [module.name for module in pkgutil.iter_modules(families.__path__)]
