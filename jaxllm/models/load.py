"""`--model=`: from a run directory, a checkpoint or a Hugging Face folder to a model in memory."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from etils import epath

from jaxllm.core.checkpoint import Checkpoints, Damaged
from jaxllm.core.config import resolve
from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.core.rundir import RunDirectory
from jaxllm.data import tokenizers
from jaxllm.data.config import DataConfig
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.importer import import_params, is_hf_folder, read_model_config
from jaxllm.models.hf.safetensors import local
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
class SavedModel(abc.ABC):
    """A model on disk."""

    name: str  # as the user gave it
    tokenizer: epath.Path  # the folder of its tokenizer

    @property
    @abc.abstractmethod
    def run(self) -> RunDirectory | None:
        """The run directory that it is from."""

    @property
    @abc.abstractmethod
    def config(self) -> ModelConfig:
        """Its configuration, with the vocabulary size that it was trained with."""

    @property
    @abc.abstractmethod
    def data(self) -> DataConfig:
        """The rows and the objective that it was trained with, as far as they are known."""

    @abc.abstractmethod
    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """Reads the parameters straight into their shards.

        Raises:
          UserError: they are not there, or none of them is whole.
        """

    def load_tokenizer(self) -> tokenizers.Tokenizer:
        """Its tokenizer.

        Raises:
          UserError: there is none, or it has more tokens than the embedding has rows.
        """
        tokenizer = tokenizers.load(self.tokenizer)
        rows = self.config.vocab_size
        if tokenizer.vocab_size > rows:
            raise UserError(
                f"model={self.name!r}: its tokenizer has {tokenizer.vocab_size} tokens and its "
                f"embedding {rows} rows: ids beyond them have no vector. One of the two is of "
                "another model."
            )
        return tokenizer


@dataclasses.dataclass(frozen=True)
class SavedRun(SavedModel):
    """The model of a run directory."""

    directory: RunDirectory
    step: int | None  # None: the newest

    @property
    def run(self) -> RunDirectory:
        """See SavedModel."""
        return self.directory

    @property
    def config(self) -> ModelConfig:
        """See SavedModel."""
        return resolve(ModelConfig, self.run.read_section("model"), "model")

    @property
    def data(self) -> DataConfig:
        """See SavedModel."""
        return resolve(DataConfig, self.run.read_section("data"), "data")

    def steps(self, checkpoints: Checkpoints) -> list[int]:
        """The steps of which one is meant: that one, or all.

        Raises:
          UserError: there is none, or not that one.
        """
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"model={self.name!r}: {self.run.root} has no checkpoint yet.")
        if self.step is None or self.step in steps:
            return steps if self.step is None else [self.step]
        near = sorted(steps, key=lambda s: abs(s - self.step))[:3]
        raise UserError(
            f"model={self.name!r}: there is no checkpoint of step {self.step}. Steps there: "
            f"{', '.join(map(str, steps))}; nearest: {', '.join(map(str, near))}."
        )

    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """See SavedModel."""
        config = self.config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
        target = {"params": abstract_params(specs, compute)}
        checkpoints = Checkpoints(self.run.checkpoints)
        self.steps(checkpoints)
        if self.step is None:
            restored, meta = checkpoints.restore_newest(target, warn, lambda meta: None)
            step = meta["step"]
        else:
            step = self.step
            try:
                restored = checkpoints.restore(step, target, cast=True)
            except Damaged as damage:
                raise UserError(f"model={self.name!r}: {damage} Choose another step.") from damage
        checkpoints.close()
        return Model(config, compute, structure, restored["params"], step)


@dataclasses.dataclass(frozen=True)
class SavedFolder(SavedModel):
    """The model of a Hugging Face folder."""

    folder: epath.Path

    @property
    def run(self) -> None:
        """See SavedModel."""
        return None

    @functools.cached_property
    def config(self) -> ModelConfig:
        """See SavedModel."""
        return read_model_config(self.folder)

    @property
    def data(self) -> DataConfig:
        """See SavedModel."""
        return usual_data(self.config, self.tokenizer)

    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """See SavedModel."""
        config = self.config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
        params = import_params(self.folder, config, specs, compute, warn)
        return Model(config, compute, structure, params, 0)


def find_model(name: str) -> SavedRun | SavedFolder:
    """The model of a run directory (`RUN` or `RUN@STEP`), a checkpoint (`RUN/checkpoints/STEP`) or
    a Hugging Face folder.

    Raises:
      UserError: there is no such model; what is there is listed.
    """
    root, step = _split_step(name)
    location = path(root)
    if location.parent.name == "checkpoints" and location.name.isdigit():
        step, location = location.name, location.parent.parent
    if not location.exists():
        raise UserError(f"model={name!r}: there is no {location}.{_runs_near(location)}")
    if is_hf_folder(location):
        if step:
            raise UserError(
                f"model={name!r}: {location} is a Hugging Face folder, which has no steps. Leave "
                f"@{step} out."
            )
        return SavedFolder(name, local(location), local(location))
    run = RunDirectory(location)
    saved = SavedRun(name, run.tokenizer, run, int(step) if step else None)
    if not run.config.exists() and any(location.glob("*.safetensors")):
        raise UserError(
            f"model={name!r}: {location} has tensors but no config.json, which says what they are: "
            "download it too."
        )
    if run.is_foreign():
        raise UserError(
            f"model={name!r}: {run.config} has no model_type, which says what the model of a "
            "Hugging Face folder is (nor a section `config`, as a run's has). Download it again."
        )
    saved.run.read_config()
    return saved


def usual_data(config: ModelConfig, tokenizer: epath.Path) -> DataConfig:
    """What a model of this kind, of whose training nothing else is known, is trained with."""
    objective = {"decoder": "causal", "encoder": "masked"}.get(config.architecture)
    if objective is None:  # with sentinels as T5, without as BART
        sentinels = tokenizers.has_tokenizer(tokenizer) and tokenizers.load(tokenizer).sentinel_ids
        objective = "span_corruption" if sentinels else "denoising"
    most = config.positions.max_length
    return DataConfig(sequence_length=min(1024, most) if most else 1024, objective=objective)


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
