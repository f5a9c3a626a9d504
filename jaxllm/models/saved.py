"""Models on disk: what all kinds of them give, and the kind of a Hugging Face folder."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory
from jaxllm.data import tokenizers
from jaxllm.data.config import DataConfig
from jaxllm.models import fingerprint
from jaxllm.models.adapters.adapter import Adapter
from jaxllm.models.adapters.leaves import (
    FolderLeaves,
    Leaves,
)
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.importer import (
    import_params,
    read_model_config,
)
from jaxllm.models.hf.safetensors import Tensors
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

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What tells its parameters from those of other models.

        Raises:
          UserError: they are not there.
        """

    def named_step(self, fingerprint: str) -> str:
        """The name of what here has these parameters, such as RUN@STEP; "": nothing has."""
        return self.name if fingerprint == self.fingerprint else ""

    @abc.abstractmethod
    def leaves(self, compute: Compute, warn: Callable[[str], None]) -> Leaves:
        """Its parameters one at a time; those of adapters are merged in.

        Raises:
          UserError: they are not there.
        """

    def parts(
        self, config: ModelConfig, compute: Compute, warn: Callable[[str], None]
    ) -> tuple[Leaves, Adapter | None]:
        """What a run of this configuration that starts here holds fixed, and the adapter it goes on
        with: its own where `config` has the very same, else none.
        """
        return self.leaves(compute, warn), None

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

    @functools.cached_property
    def fingerprint(self) -> str:
        """See SavedModel."""
        return fingerprint.of_tensors(Tensors(self.folder))

    def leaves(self, compute: Compute, warn: Callable[[str], None]) -> Leaves:
        """See SavedModel."""
        return FolderLeaves(self.folder, self.config, compute, warn)

    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """See SavedModel."""
        config = self.config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
        params = import_params(self.folder, config, specs, compute, warn)
        return Model(config, compute, structure, params, 0)


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
