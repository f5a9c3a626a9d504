"""The configuration of a model: a preset of a family, and what a recipe changes in it."""

from __future__ import annotations

import dataclasses
import importlib
import operator
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxllm.core.config import apply_overlay, check_ranges, overlay
from jaxllm.core.errors import UserError, unknown
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.nn.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    HeadConfig,
    InitConfig,
    MlpConfig,
    NormConfig,
    PositionConfig,
)


@dataclass(frozen=True)
class ModelConfig:
    """One Transformer. Sizes are in elements; 0 in a rate or cap turns it off."""

    family: str = "llama"  # a file of models/families
    architecture: str = "decoder"  # decoder | encoder | encoder_decoder
    vocab_size: int = 0  # rows of the embedding; 0: the tokenizer's size
    width: int = 512
    layers: int = 8  # of the decoder, or of the only tower
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    positions: PositionConfig = field(default_factory=PositionConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    init: InitConfig = field(default_factory=InitConfig)
    parallel_residual: bool = False  # attention and MLP read the same normalised stream (GPT-J)
    tied: bool = False  # the output projection is the embedding
    bidirectional_prefix: bool = False  # a prompt is seen in both directions (prefix LM)
    decoder_start_id: int = -1  # first decoder input (encoder_decoder); -1: the padding token
    dropout: float = 0.0  # of the embedding and of each sublayer's output
    logit_softcap: float = 0.0
    adapter: AdapterConfig = field(default_factory=AdapterConfig)  # set by a recipe's `tune`

    def completed(self) -> ModelConfig:
        """The same with heads and sizes that follow from others filled in, checked.

        Raises:
          UserError: unknown names, or sizes that contradict each other.
        """
        self._check_names()
        self.adapter.check("tune")
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)} must be at least 1.")
        check_ranges(self, "model", RANGES)
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
        turned = int(head_dim * self.positions.rotary_fraction)
        if self.positions.kind == "rope" and (turned % 2 or not turned):
            raise UserError(
                f"RoPE turns an even number of dimensions, not {turned}: change "
                f"model.attention.head_dim={head_dim} or "
                f"model.positions.rotary_fraction={self.positions.rotary_fraction}."
            )
        attention = dataclasses.replace(attention, kv_heads=kv_heads, head_dim=head_dim)
        encoder = self.encoder
        if self.architecture == "encoder_decoder":
            encoder = EncoderConfig(
                encoder.layers or self.layers, encoder.heads or heads,
                encoder.mlp_width or self.mlp.width,
            )
            if encoder.heads != heads and self.width % encoder.heads:
                raise UserError(
                    f"model.encoder.heads={encoder.heads} must divide model.width={self.width}."
                )
        head = self.head
        if head.kind == "reward":
            head = dataclasses.replace(head, labels=1)
        return dataclasses.replace(self, attention=attention, encoder=encoder, head=head)

    def encoder_config(self) -> ModelConfig:
        """The configuration of the encoder tower."""
        ours, encoder = self.attention, self.encoder
        attention = ours
        if encoder.heads not in (0, ours.heads):
            attention = dataclasses.replace(
                ours, heads=encoder.heads, kv_heads=encoder.heads,
                head_dim=self.width // encoder.heads,
            )
        return dataclasses.replace(
            self, layers=encoder.layers or self.layers, attention=attention,
            mlp=dataclasses.replace(self.mlp, width=encoder.mlp_width or self.mlp.width),
        )

    def _check_names(self) -> None:
        """Refuses names that are none of ours, and groups that the architecture does not read."""
        if self.family not in families():
            raise unknown("model.family", self.family, families())
        for name, value, known in (
            ("architecture", self.architecture, ARCHITECTURES),
            ("positions.kind", self.positions.kind, POSITIONS),
            ("norm.placement", self.norm.placement, PLACEMENTS),
            ("head.kind", self.head.kind, HEADS),
            *(("attention.pattern", kind, LAYER_KINDS) for kind in self.attention.pattern),
        ):
            if value not in known:
                raise unknown(f"model.{name}", value, known)
        if not self.attention.pattern:
            raise UserError("model.attention.pattern is empty: name 'local' or 'global' layers.")
        if self.architecture != "encoder_decoder" and self.encoder != EncoderConfig():
            raise UserError(
                f"model.encoder has no effect with model.architecture={self.architecture!r}: it "
                "describes the encoder of an encoder_decoder. Set model.layers, "
                "model.attention.heads and model.mlp.width."
            )
        if self.parallel_residual and (
            self.norm.placement != "pre" or self.architecture == "encoder_decoder"
        ):
            raise UserError(
                "model.parallel_residual=True goes with model.norm.placement='pre' in a decoder "
                "or an encoder."
            )
        if self.head.kind.endswith("classification") and self.head.labels < 1:
            raise UserError(
                f"model.head.labels={self.head.labels}: say how many classes there are."
            )
        start = self.decoder_start_id
        if start < -1 or start >= self.vocab_size > 0:
            raise UserError(
                f"model.decoder_start_id={start} is no token of the model, whose vocabulary has "
                f"{self.vocab_size or 'the ids of the tokenizer'}: name an id from 0 to "
                f"{self.vocab_size - 1 if self.vocab_size else 'its last'}, or -1 for the padding "
                "token."
            )
        if self.head.kind == "reward" and self.head.labels > 1:
            raise UserError(
                f"model.head.labels={self.head.labels} with model.head.kind='reward', which is one "
                "number: set it to 1, or use sequence_classification."
            )

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


RANGES = {
    "dropout": "[0, 1)", "attention.dropout": "[0, 1)", "mlp.dropout": "[0, 1)",
    "head.dropout": "[0, 1)", "norm.eps": "(0, inf)", "init.stddev": "[0, inf)",
    "positions.theta": "(0, inf)", "positions.local_theta": "[0, inf)",
    "positions.rotary_fraction": "(0, 1]", "positions.scaling_factor": "(0, inf)",
    "positions.original_max_length": "[1, inf)", "positions.max_length": "[1, inf)",
    "positions.offset": "[0, inf)", "positions.buckets": "[4, inf)",
    "positions.max_distance": "[2, inf)", "positions.attention_factor": "[0, inf)",
    "attention.heads": "[1, inf)", "attention.kv_heads": "[0, inf)",
    "attention.head_dim": "[0, inf)", "attention.window": "[0, inf)",
    "attention.clip": "[0, inf)", "attention.softcap": "[0, inf)", "attention.scale": "[0, inf)",
    "logit_softcap": "[0, inf)", "mlp.width": "[1, inf)", "vocab_size": "[0, inf)",
    "embedding.types": "[0, inf)", "embedding.dropout": "[-1, 1)", "encoder.layers": "[0, inf)",
    "encoder.heads": "[0, inf)", "encoder.mlp_width": "[0, inf)", "head.labels": "[0, inf)",
}
ARCHITECTURES = ("decoder", "encoder", "encoder_decoder")
POSITIONS = ("rope", "learned", "alibi", "relative", "none")
PLACEMENTS = ("pre", "post", "output", "sandwich")
LAYER_KINDS = ("local", "global")
LANGUAGE_HEADS = ("lm", "masked_lm")
HEADS = (
    *LANGUAGE_HEADS, "sequence_classification", "token_classification", "reward", "embedding"
)
TEXT_HEADS = HEADS[2:]
SCORES = TEXT_HEADS[:3]  # heads that end with a projection to classes or one number
_SCALED = ("scaling_factor", "low_frequency_factor", "high_frequency_factor",
           "original_max_length", "attention_factor", "beta_fast", "beta_slow", "short_factors",
           "long_factors")
# Fields that only some values of another field read: (fields, that field, its values).
READERS: tuple[tuple[tuple[str, ...], str, tuple[Any, ...]], ...] = (
    (("positions.theta", "positions.local_theta", "positions.rotary_fraction", "positions.scaling",
      *(f"positions.{name}" for name in _SCALED)), "positions.kind", ("rope",)),
    (("positions.scaling_factor",), "positions.scaling", ("linear", "llama3", "yarn")),
    (("positions.low_frequency_factor", "positions.high_frequency_factor"), "positions.scaling",
     ("llama3",)),
    (("positions.original_max_length",), "positions.scaling", ("llama3", "yarn", "longrope")),
    (("positions.attention_factor",), "positions.scaling", ("yarn", "longrope")),
    (("positions.beta_fast", "positions.beta_slow"), "positions.scaling", ("yarn",)),
    (("positions.short_factors", "positions.long_factors"), "positions.scaling", ("longrope",)),
    (("positions.offset",), "positions.kind", ("learned",)),
    (("positions.buckets", "positions.max_distance"), "positions.kind", ("relative",)),
    (("head.labels", "head.classifier_bias", "head.dropout"), "head.kind", SCORES),
    (("head.pooling", "head.dense"), "head.kind", TEXT_HEADS),
    (("head.bias", "head.scaled", "tied", "logit_softcap"), "head.kind", LANGUAGE_HEADS),
    (("head.activation",), "head.kind", ("masked_lm",)),
    (("bidirectional_prefix",), "architecture", ("decoder",)),
    (("decoder_start_id",), "architecture", ("encoder_decoder",)),
    (("norm.unit_offset",), "norm.learned", (True,)),
)


def _check_read(section: Mapping[str, Any], model: ModelConfig) -> None:
    """Refuses what a section sets and the model with its mechanisms does not read.

    Only the section's own settings are looked at: a preset may hold more than is read.
    """
    usual = ModelConfig()

    def odd(where: str) -> bool:
        value: Any = section
        for name in where.split("."):
            value = value.get(name) if value is not None else None
        return value is not None and _at(model, where) != _at(usual, where)

    for fields, choice, values in READERS:
        if _at(model, choice) in values:
            continue
        for name in filter(odd, fields):
            raise UserError(
                f"model.{name}={_at(model, name)!r} has no effect with model.{choice}="
                f"{_at(model, choice)!r}. Remove it, or set model.{choice} to "
                f"{' or '.join(map(repr, values))}."
            )
    attention = model.attention
    if odd("attention.window") and "local" not in attention.pattern:
        raise UserError(
            f"model.attention.window={attention.window} has no effect with "
            f"model.attention.pattern={attention.pattern}: it is that of local layers. Remove it, "
            "or name 'local' layers in the pattern."
        )
    if odd("attention.pattern") and not (attention.window or model.positions.local_theta):
        raise UserError(
            f"model.attention.pattern={attention.pattern} has no effect: without "
            "model.attention.window or model.positions.local_theta all layers are alike. Set one "
            "of these, or remove it."
        )


def _at(config: ModelConfig, where: str) -> Any:
    return operator.attrgetter(where)(config)


def model_section() -> ConfigDict:
    """The `model` section of a recipe: a preset's name, and every field open to change."""
    section = overlay(ModelConfig)
    del section.adapter  # which the section `tune` says
    section.preset = config_dict.placeholder(str)
    return section


def resolve_model(section: ConfigDict, base: ModelConfig | None = None) -> ModelConfig:
    """The preset (or `base`, the model that a run starts from) with the section's changes.

    Raises:
      UserError: an unknown preset or field, or a field that the model does not read.
    """
    changes = {name: section[name] for name in section if name != "preset"}
    if "adapter" in changes:
        raise UserError("model.adapter is no known field: the section `tune` says what trains.")
    if section.get("preset") is not None:
        base = preset(section.preset)
    model = apply_overlay(base or ModelConfig(), changes, "model").completed()
    _check_read(changes, model)
    return model


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
    for name in families():
        found.update(importlib.import_module(f"jaxllm.models.families.{name}").PRESETS)
    return found


def families() -> list[str]:
    """The names of all families."""
    from jaxllm.models import families

    return [module.name for module in pkgutil.iter_modules(families.__path__)]
