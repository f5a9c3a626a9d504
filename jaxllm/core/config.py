"""ConfigDict in, frozen dataclasses out: each layer declares its section and receives only that.

A section is a frozen dataclass whose leaves are int, Wide, float, bool, str or tuples of those; it
may hold other sections and dictionaries of sections. Recipes build the same tree as an
`ml_collections.ConfigDict`, so that `--config.section.field=value` works for every field;
`resolve` turns it into the dataclasses once, strictly. The file imports no jax: a wrong key is
reported before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from jaxllm.core.errors import UserError, nearest

Section = TypeVar("Section")
# An int field that need not fit int32, such as a number of bytes: who reads it bounds it.
Wide = typing.NewType("Wide", int)

INT32 = 2**31 - 1  # steps and positions are int32 on a device


def to_config_dict(section: Any) -> ConfigDict:
    """The ConfigDict with the fields and values of a section instance."""
    return ConfigDict(to_dict(section), convert_dict=True)


def to_dict(section: Any) -> dict[str, Any]:
    """The nested plain dictionary of a section instance (tuples stay tuples)."""
    return dataclasses.asdict(section)


def overlay(cls: type) -> ConfigDict:
    """A ConfigDict with every field of `cls` unset: what a recipe sets wins over a preset."""
    result = ConfigDict()
    for name, kind in _fields(cls).items():
        if dataclasses.is_dataclass(kind):
            result[name] = overlay(kind)
        else:
            plain = getattr(kind, "__supertype__", kind)
            result[name] = config_dict.placeholder(typing.get_origin(plain) or plain)
    return result


def apply_overlay(base: Section, changes: ConfigDict, where: str) -> Section:
    """`base` with every field that `changes` sets replaced; strict as `resolve`."""
    kinds = _fields(type(base))
    _reject_unknown(changes, kinds, where)
    updates = {}
    for name, kind in kinds.items():
        value = changes.get(name)
        if dataclasses.is_dataclass(kind):
            if value is not None:
                updates[name] = apply_overlay(getattr(base, name), value, f"{where}.{name}")
        elif value is not None:
            updates[name] = _leaf(kind, value, f"{where}.{name}")
    return dataclasses.replace(base, **updates)


def resolve(cls: type[Section], values: Any, where: str = "config") -> Section:
    """The dataclass `cls` filled from a ConfigDict or dictionary.

    Raises:
      UserError: an unknown key (with the nearest known one), a value of the wrong type, or an
        int outside int32 in a field that is not Wide.
    """
    kinds = _fields(cls)
    _reject_unknown(values, kinds, where)
    return cls(**{
        name: _value(kinds[name], values[name], f"{where}.{name}")
        for name in values
    })


def difference(config: ConfigDict, default: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """What differs from the defaults, as {dotted field: value}, in the order of the config."""
    result: dict[str, Any] = {}
    for name in config:
        value, usual = config[name], default.get(name)
        if isinstance(value, ConfigDict):
            inner = usual if isinstance(usual, ConfigDict) else ConfigDict()
            result.update(difference(value, inner, f"{prefix}{name}."))
        elif value != usual:
            result[prefix + name] = value
    return result


def reject_unread(
    section: Any, read: set[str], owner: str, where: str, fix: str = ""
) -> None:
    """Refuses a field set away from its default that the chosen `owner` never reads.

    `read` names the fields of `section` that matter for that choice; `fix` is what else to do.
    """
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.name not in read and value != field.default:
            raise UserError(
                f"{where}.{field.name}={value!r} has no effect: {owner} does not read it. "
                f"Leave it at {field.default!r}, or "
                f"{fix or 'set one of ' + ', '.join(sorted(read))}."
            )


def check_ranges(section: Any, where: str, ranges: dict[str, str]) -> None:
    """Refuses numbers that mean nothing, infinite ones too.

    `ranges` has an interval, such as "[0, 1)", for each dotted field.

    Raises:
      UserError: naming the field and the interval in words.
    """
    for name, interval in ranges.items():
        value = functools.reduce(getattr, name.split("."), section)
        low, high = (float(end) for end in interval[1:-1].split(","))
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below and math.isfinite(value)):
            words = [f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"]
            if math.isfinite(high):
                words.append(f"at most {high:g}" if interval[-1] == "]" else f"below {high:g}")
            field = f"{where}.{name}" if where else name
            raise UserError(f"{field}={value} must be a number {' and '.join(words)}.")


def check_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuses the variant of a recipe (`--config=FILE:variant`) that the recipe does not have."""
    if variant and variant not in known:
        raise UserError(f"The recipe has no variant {variant!r}. {nearest(variant, known)}")


def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _reject_unknown(values: Any, kinds: dict[str, Any], where: str) -> None:
    for name in values:
        if name not in kinds:
            raise UserError(f"{where}.{name} is no known field. {nearest(name, kinds)}")


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, (ConfigDict, dict)):
            raise UserError(f"{where}={value!r} must be a section with fields, not a value.")
        return resolve(kind, value, where)
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        return {name: _value(inner, value[name], f"{where}.{name}") for name in value}
    return _leaf(kind, value, where)


def _leaf(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{where}={value!r} must be a tuple, such as ({value!r},).")
        return tuple(_leaf(inner, item, where) for item in value)
    if kind is int and isinstance(value, int) and not -INT32 <= value <= INT32:
        raise UserError(f"{where}={value} must lie between -{INT32} and {INT32}.")
    kind = int if kind is Wide else kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(
            f"{where}={value!r} has the wrong type: it must be {kind.__name__}, "
            f"not {type(value).__name__}."
        )
    return value


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each kind of parallelism; the product is the device count, one may be -1."""

    dcn: int = 1  # slices of TPUs, each with all of the parameters and its share of the batch
    data: int = 1  # replicas of the parameters, each with its share of the batch
    fsdp: int = -1  # parameters, gradients and optimizer state sharded too (ZeRO-3)
    expert: int = 1  # experts of a mixture; a dense model uses the axis as more fsdp-free batch
    context: int = 1  # the sequence
    tensor: int = 1  # attention heads, the MLP's width and the vocabulary
    stage: int = 1  # the stacked layers: a pipeline
    microbatches: int = 0  # of the pipeline; 0: four a stage, or as many as the batch allows
    repeats: int = 1  # times that a microbatch goes round the stages: the more, the less they wait


def replace_fields(section: Section, changes: dict[str, Any]) -> Section:
    """`section` with the fields at these dotted paths replaced, in order; values are not checked.

    Raises:
      AttributeError: there is no such field.
    """
    for where, value in changes.items():
        name, _, rest = where.partition(".")
        if rest:
            value = replace_fields(getattr(section, name), {rest: value})
        section = dataclasses.replace(section, **{name: value})
    return section
