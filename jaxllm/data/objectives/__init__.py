"""Objectives: what a model learns from a window of text, or from rows. A file each, by its name.

A file has `OBJECTIVE`, a subclass of `base.Objective`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

from jaxllm.core.errors import UserError, unknown
from jaxllm.data.config import DataConfig
from jaxllm.data.objectives.base import Objective, PairObjective
from jaxllm.data.objectives.rows import RowObjective
from jaxllm.data.tokenizers.base import Tokenizer

__all__ = [
    "Objective", "RowObjective", "check_architecture", "make_objective", "objective_class",
    "objectives", "trains_on_rows",
]

PARTS = {"base", "rows", "spans"}  # files that are no objectives
OPTIONS = ("masked", "spans", "denoising", "prefix")  # sections, each read by its objective only


def objectives() -> list[str]:
    """The names of all objectives."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - PARTS)


def make_objective(
    config: DataConfig, load_tokenizer: Callable[[], Tokenizer], decoder_start_id: int = -1
) -> Objective:
    """The objective of a configuration. Only objectives that need the tokenizer load it.

    `decoder_start_id` is the first input of an encoder-decoder's decoder, -1 the padding token.

    Raises:
      UserError: no such objective, an option out of range or that it does not read, or a token
        that the tokenizer lacks.
    """
    kind = objective_class(config.objective)
    _check_unread(config, kind)
    return kind(config, load_tokenizer, decoder_start_id)


def check_architecture(objective: str, architecture: str) -> None:
    """Refuses a model of another architecture than the objective trains.

    Raises:
      UserError: with the objectives that fit.
    """
    fitting = objective_class(objective).ARCHITECTURES
    if architecture not in fitting:
        others = [n for n in objectives() if architecture in objective_class(n).ARCHITECTURES]
        raise UserError(
            f"data.objective={objective!r} trains a model of architecture "
            f"{' or '.join(map(repr, fitting))}, and model.architecture={architecture!r}. "
            f"Set data.objective to {' or '.join(map(repr, others))}, or choose another model."
        )


def objective_class(name: str) -> type[Objective]:
    """The class of an objective.

    Raises:
      UserError: there is no such objective.
    """
    if name not in objectives():
        raise unknown("data.objective", name, objectives())
    return importlib.import_module(f"{__name__}.{name}").OBJECTIVE


def trains_on_rows(name: str) -> bool:
    """Whether an objective reads rows; raises as `objective_class`."""
    return issubclass(objective_class(name), RowObjective)


def stream_config(config: DataConfig, has_sentinels: bool) -> DataConfig:
    """How prepared data are read where the objective is one of rows: by the objective that trains
    such a model on text, in rows of the same lengths.

    Raises:
      UserError: there is none.
    """
    kind = objective_class(config.objective)
    name = kind.STREAM[0 if has_sentinels else 1]
    if not name:
        raise UserError(
            f"data.objective={config.objective!r} learns labels, which prepared data have not: "
            "name rows instead."
        )
    target = 0
    if issubclass(kind, PairObjective):
        target = config.target_length or config.sequence_length
    usual = DataConfig()
    unread = {field: getattr(usual, field) for field in kind.READS}
    return dataclasses.replace(config, objective=name, target_length=target, **unread)


def _check_unread(config: DataConfig, kind: type[Objective]) -> None:
    """Refuses the options of other objectives."""
    usual = DataConfig()
    for name in OPTIONS:
        value, default = getattr(config, name), getattr(usual, name)
        if name != kind.OPTIONS and value != default:
            field = next(f.name for f in dataclasses.fields(value)
                         if getattr(value, f.name) != getattr(default, f.name))
            readers = [n for n in objectives() if name == objective_class(n).OPTIONS]
            raise _unread(config, f"{name}.{field}", getattr(value, field), readers)
    if config.target_length and not issubclass(kind, PairObjective):
        readers = [n for n in objectives() if issubclass(objective_class(n), PairObjective)]
        raise _unread(config, "target_length", config.target_length, readers)


    for name in sorted({field for n in objectives() for field in objective_class(n).READS}):
        if name not in kind.READS and getattr(config, name) != getattr(usual, name):
            readers = [n for n in objectives() if name in objective_class(n).READS]
            raise _unread(config, name, getattr(config, name), readers)


def _unread(config: DataConfig, field: str, value: object, readers: list[str]) -> UserError:
    return UserError(
        f"data.{field}={value!r} has no effect: data.objective={config.objective!r} does not read "
        f"it. Remove it, or set data.objective to {' or '.join(map(repr, readers))}."
    )
