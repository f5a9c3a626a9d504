"""The two-way map between config.json and ModelConfig, as data: one rule per key or few keys.

A rule reads its keys into dotted fields of ModelConfig and writes them back. What a rule does not
understand it refuses: an option that is ignored would be a model that silently differs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jaxllm.core.errors import UserError
from jaxllm.models.config import ModelConfig

REQUIRED = object()
Json = Mapping[str, Any]


class Rule(Protocol):
    """Some keys of config.json, and what they mean."""

    keys: tuple[str, ...]

    def read(self, theirs: Json) -> dict[str, Any]:
        """The dotted fields of ModelConfig that the keys decide."""

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """The keys with the values of `ours`."""


@dataclass(frozen=True)
class Field:
    """A key that is a field of ours; `values` translates (theirs to ours) where they differ."""

    key: str
    path: str
    default: Any = REQUIRED  # what transformers takes when the key is not there
    values: Mapping[Any, Any] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The one key."""
        return (self.key,)

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        value = theirs.get(self.key, self.default)
        if value is REQUIRED:
            raise UserError(f"config.json has no {self.key!r}.")
        if self.values is not None:
            if value is not None and value not in self.values:
                raise unsupported(self.key, value, [v for v in self.values if v is not None])
            value = self.values.get(value)
        if value is None:
            raise unsupported(self.key, None)
        return {self.path: value}

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        value = operator.attrgetter(self.path)(ours)
        if self.values is not None:
            value = next((key for key, ours in self.values.items() if ours == value), value)
        return {self.key: value}


@dataclass(frozen=True)
class Optional:
    """A number that may be null in theirs and is `empty` in ours then."""

    key: str
    path: str
    empty: Any = 0
    default: Any = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The one key."""
        return (self.key,)

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        value = theirs.get(self.key, self.default)
        return {self.path: self.empty if value is None else value}

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        value = operator.attrgetter(self.path)(ours)
        return {self.key: None if value == self.empty else value}


@dataclass(frozen=True)
class Fixed:
    """A key that must have one value, which is also what its absence means."""

    key: str
    value: Any
    also: tuple[Any, ...] = ()  # other values that change nothing

    @property
    def keys(self) -> tuple[str, ...]:
        """The one key."""
        return (self.key,)

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        value = theirs.get(self.key, self.value)
        if value != self.value and value not in self.also:
            raise unsupported(self.key, value, [self.value])
        return {}

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        return {self.key: self.value}


@dataclass(frozen=True)
class EmbeddingDropout:
    """embd_pdrop, which our models need not tell from the other dropout."""

    default: float
    key: str = "embd_pdrop"

    @property
    def keys(self) -> tuple[str, ...]:
        """The one key."""
        return (self.key,)

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        return {"embedding.dropout": theirs.get(self.key, self.default)}

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        own = ours.embedding.dropout
        return {self.key: ours.dropout if own < 0 else own}


# their names of activations; of several for one of ours, the first is written
ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
}
# families whose configurations say gelu_new
ACTIVATIONS_NEW = {"gelu_new": "gelu_tanh", **ACTIVATIONS}

# Keys of each kind of RoPE scaling, with our field; "" for those that decide nothing here.
_YARN = {
    "factor": "scaling_factor", "original_max_position_embeddings": "original_max_length",
    "beta_fast": "beta_fast", "beta_slow": "beta_slow", "attention_factor": "attention_factor",
}
ROPE_KEYS = {
    "default": {},
    "linear": {"factor": "scaling_factor"},
    "llama3": {
        "factor": "scaling_factor", "low_freq_factor": "low_frequency_factor",
        "high_freq_factor": "high_frequency_factor",
        "original_max_position_embeddings": "original_max_length",
    },
    "yarn": _YARN,
    "longrope": {
        "short_factor": "short_factors", "long_factor": "long_factors",
        "original_max_position_embeddings": "original_max_length",
        "attention_factor": "attention_factor",
    },
}


@dataclass(frozen=True)
class Rope:
    """rope_parameters of transformers 5, and rope_theta with rope_scaling of 4."""

    theta: float = 10_000.0  # when config.json says none
    fraction: float | None = None  # default share of a head that turns; None: the whole, always
    local_theta: float = 0.0  # when layers differ (Gemma 3): the default in local layers
    original: int = 0  # default of a key of its own for the context before scaling (Phi-3)
    kinds: tuple[str, ...] = tuple(ROPE_KEYS)  # scalings that transformers has for the family

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of both versions."""
        return (
            "rope_parameters", "rope_theta", "rope_scaling",
            *(("partial_rotary_factor",) if self.fraction is not None else ()),
            *(("rope_local_base_freq",) if self.local_theta else ()),
            *(("original_max_position_embeddings",) if self.original else ()),
        )

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        new, old = (theirs.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
        if new and old and any(new.get(key) != value for key, value in old.items()):
            raise unsupported("rope_scaling (beside another rope_parameters)", old)
        known = dict(new or old)
        local: dict[str, Any] = {}
        if "full_attention" in known:
            if not self.local_theta:
                raise unsupported("rope_parameters", known)
            local = dict(known.get("sliding_attention") or {})
            known = dict(known["full_attention"] or {})
        known.setdefault("rope_theta", theirs.get("rope_theta", self.theta))
        result = _read_scaling(known, theirs, self.kinds)
        result["positions.theta"] = float(known["rope_theta"])
        if self.original:
            result["positions.original_max_length"] = theirs.get(
                "original_max_position_embeddings", self.original
            )
        _check_longrope(known, result, theirs)
        share = known.get("partial_rotary_factor")
        if self.fraction is not None:
            usual = theirs.get("partial_rotary_factor", self.fraction)
            result["positions.rotary_fraction"] = usual if share is None else share
        elif share not in (None, 1.0):
            raise unsupported("rope_parameters.partial_rotary_factor", share, [1.0])
        if self.local_theta:
            if local.get("rope_type", "default") != "default":
                raise unsupported("rope_parameters.sliding_attention", local)
            usual = theirs.get("rope_local_base_freq", self.local_theta)
            result["positions.local_theta"] = float(local.get("rope_theta", usual))
        return result

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        positions = ours.positions
        kind = "default" if positions.scaling == "none" else positions.scaling
        result: dict[str, Any] = {"rope_type": kind, "rope_theta": positions.theta}
        for key, name in ROPE_KEYS[kind].items():
            value = getattr(positions, name)
            if key == "attention_factor" and not value:
                continue
            result[key] = list(value) if isinstance(value, tuple) else value
        if self.fraction is not None:
            result["partial_rotary_factor"] = positions.rotary_fraction
        if self.original:
            context = positions.original_max_length
            return {"rope_parameters": result, "original_max_position_embeddings": context}
        if not self.local_theta:
            return {"rope_parameters": result}
        local = {"rope_type": "default", "rope_theta": positions.local_theta}
        return {"rope_parameters": {"sliding_attention": local, "full_attention": result}}


def _read_scaling(
    known: dict[str, Any], theirs: Json, kinds: tuple[str, ...]
) -> dict[str, Any]:
    kind = known.get("rope_type", known.get("type", "default"))
    if kind == "su":  # its name in the first Phi-3 files
        kind = "longrope"
    if kind not in kinds:
        raise unsupported("rope_scaling", kind, list(kinds))
    fields = ROPE_KEYS[kind]
    usual = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    # "factor" of no scaling is not read; that of longrope see _check_longrope
    spare = ("factor",) if kind in ("longrope", "default") else ()
    if extra := [k for k in known if k not in (*fields, *usual, *spare) and known[k] is not None]:
        raise unsupported(f"rope_scaling.{extra[0]}", known[extra[0]])
    if missing := [k for k in fields if k.endswith("factor") and k != "attention_factor"
                   and known.get(k) is None]:
        raise UserError(f"config.json: the {kind!r} scaling of RoPE has no {missing[0]!r}.")
    result = {"positions.scaling": "none" if kind == "default" else kind}
    for key, name in fields.items():
        value = known.get(key)
        if value is None and key == "original_max_position_embeddings":
            value = theirs.get(key, theirs.get("max_position_embeddings"))
        if value is not None:
            result[f"positions.{name}"] = tuple(map(float, value)) if isinstance(value, list) \
                else value
    return result


def _check_longrope(known: dict[str, Any], result: dict[str, Any], theirs: Json) -> None:
    """Refuses a factor of longrope that is not the ratio of the two contexts, which we take."""
    if result["positions.scaling"] != "longrope" or known.get("attention_factor"):
        return
    ratio = theirs["max_position_embeddings"] / result["positions.original_max_length"]
    if known.get("factor") not in (None, ratio):
        raise unsupported("rope_scaling.factor", known["factor"], [ratio])


KINDS = {"sliding_attention": "local", "full_attention": "global"}


@dataclass(frozen=True)
class LayerTypes:
    """layer_types, a name for each layer, as our repeating pattern; and the window's width."""

    pattern: tuple[str, ...]  # when config.json has no layer_types
    spare: tuple[str, ...] = ()  # keys that layer_types made superfluous
    window: int = 4096

    @property
    def keys(self) -> tuple[str, ...]:
        """layer_types and its predecessors."""
        return ("layer_types", "sliding_window", *self.spare)

    def read(self, theirs: Json) -> dict[str, Any]:
        """See Rule."""
        pattern = self.pattern
        if (types := theirs.get("layer_types")) is not None:
            if unknown := [name for name in types if name not in KINDS]:
                raise unsupported("layer_types", unknown[0], list(KINDS))
            pattern = shortest_period(tuple(KINDS[name] for name in types))
        window = theirs.get("sliding_window", self.window)
        return {"attention.pattern": pattern, "attention.window": window or 0}

    def write(self, ours: ModelConfig) -> dict[str, Any]:
        """See Rule."""
        names = {value: key for key, value in KINDS.items()}
        pattern, window = ours.attention.pattern, ours.attention.window
        types = [names[pattern[i % len(pattern)]] for i in range(ours.layers)]
        return {"layer_types": types, "sliding_window": window or None}


def shortest_period(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest pattern that gives `kinds` when repeated; its last repetition may be cut."""
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[i % length] for i, kind in enumerate(kinds)):
            return kinds[:length]
    return kinds


def unsupported(key: str, value: Any, known: list | None = None) -> UserError:
    """An option of config.json that would change the result and is not implemented."""
    choices = f" Implemented: {', '.join(map(repr, known))}." if known else ""
    return UserError(
        f"config.json: {key}={value!r} is not implemented, and without it the model would compute "
        f"something else.{choices}"
    )
