"""`--model=`: from a run directory or a checkpoint to a model in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from jaxllm.core.checkpoint import Checkpoints, Damaged
from jaxllm.core.config import resolve
from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.core.rundir import RunDirectory
from jaxllm.models.config import ModelConfig
from jaxllm.models.parameters import check_divisible, param_shardings
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute
from jaxllm.nn.module import Params, Structure, abstract, bind


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its parameters; what generation and evaluation work on."""

    config: ModelConfig
    compute: Compute
    structure: Structure
    params: Params
    step: int  # updates done, 0 for a fresh model

    def bind(self, params: Params) -> Transformer:
        """The Transformer with these parameters; call it inside jit."""
        return bind(self.structure, params)


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model on disk."""

    name: str  # as the user gave it
    run: RunDirectory
    step: int | None  # None: the newest

    @property
    def config(self) -> ModelConfig:
        """Its configuration, with the vocabulary size that it was trained with."""
        return resolve(ModelConfig, self.run.read_section("model"), "model")


def find_model(name: str) -> SavedModel:
    """The model of a run directory (`RUN` or `RUN@STEP`) or a checkpoint (`RUN/checkpoints/STEP`).

    Raises:
      UserError: there is no such model; what is there is listed.
    """
    root, step = _split_step(name)
    location = path(root)
    if location.parent.name == "checkpoints" and location.name.isdigit():
        step, location = location.name, location.parent.parent
    if not location.exists():
        raise UserError(f"model={name!r}: there is no {location}.{_runs_near(location)}")
    saved = SavedModel(name, RunDirectory(location), int(step) if step else None)
    saved.run.read_config()
    return saved


def load_params(
    saved: SavedModel, compute: Compute, warn: Callable[[str], None]
) -> Model:
    """Reads the parameters straight into their shards.

    Raises:
      UserError: no checkpoint, not that step, or none that is whole.
    """
    config = saved.config
    structure, specs = abstract(partial(Transformer, config=config, compute=compute))
    check_divisible(specs, compute.sharding)
    target = {"params": abstract_params(specs, compute)}
    checkpoints = Checkpoints(saved.run.checkpoints)
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"model={saved.name!r}: {saved.run.root} has no checkpoint yet.")
    if saved.step is None:
        restored, meta = checkpoints.restore_newest(target, warn, lambda meta: None)
        step = meta["step"]
    elif saved.step not in steps:
        near = sorted(steps, key=lambda s: abs(s - saved.step))[:3]
        raise UserError(
            f"model={saved.name!r}: there is no checkpoint of step {saved.step}. Steps there: "
            f"{', '.join(map(str, steps))}; nearest: {', '.join(map(str, near))}."
        )
    else:
        step = saved.step
        try:
            restored = checkpoints.restore(step, target, cast=True)
        except Damaged as damage:
            raise UserError(f"model={saved.name!r}: {damage} Choose another step.") from damage
    checkpoints.close()
    return Model(config, compute, structure, restored["params"], step)


def abstract_params(specs: Params, compute: Compute) -> Any:
    """ShapeDtypeStructs of the parameters, with their shardings."""
    return jax.tree.map(
        lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding),
        specs, param_shardings(specs, compute.sharding),
    )


def _split_step(name: str) -> tuple[str, str]:
    """The path and the step ("" for the newest) of RUN@STEP, where RUN may itself have an '@'."""
    root, at, step = name.rpartition("@")
    if not at or path(name).exists():
        return name, ""
    if step.isdecimal():
        return root, step
    if path(root).exists() and "/" not in step:
        raise UserError(f"model={name!r}: the step after '@' must be a number.")
    return name, ""


def _runs_near(location) -> str:
    parent = location.parent
    if not parent.exists():
        return ""
    runs = sorted(p.name for p in parent.iterdir() if (p / "config.json").exists())
    return f" Runs in {parent}: {', '.join(runs[:10])}." if runs else ""
