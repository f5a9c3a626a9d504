"""Where a run's first state comes from, and whether that fits: its checkpoint, or another model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax

from jaxllm.core.checkpoint import Meta
from jaxllm.core.config import to_dict
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.loader import TrainingData
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.exporter import check_writable
from jaxllm.models.load import SavedModel, find_model
from jaxllm.models.parameters import first_not_finite
from jaxllm.nn.module import Params
from jaxllm.train.config import Config
from jaxllm.train.state import Setup


def check_fits(
    setup: Setup, config: Config, data: TrainingData, directory: RunDirectory, meta: Meta
) -> None:
    """Refuses to go on from a checkpoint of another model, optimizer, tokenizer or of other data.

    Raises:
      UserError: naming what differs.
    """
    root, step = directory.root, meta["step"]
    ours = json.loads(json.dumps(to_dict(setup.model)))
    if changed := _changes(meta["model"], ours, "model"):
        raise UserError(
            f"The checkpoint of step {step} in {root} has another model: "
            f"{'; '.join(changed[:4])}. Restore these values, or choose another --workdir."
        )
    if meta["optimizer"] != config.optimizer.name:
        raise UserError(
            f"The checkpoint in {root} was trained with optimizer.name={meta['optimizer']!r}, not "
            f"{config.optimizer.name!r}: its optimizer state does not fit. Choose another "
            f"--workdir, with --config.train.init_from={root} to keep the parameters."
        )
    if meta["tokenizer"] != data.tokenizer_hash:
        raise UserError(
            f"The checkpoint in {root} was trained with another tokenizer "
            f"({meta['tokenizer'][:12]}) than the data's ({data.tokenizer_hash[:12]}). Prepare the "
            "data with the run's tokenizer folder (tokenizer.path), or choose another --workdir."
        )
    if meta["data"] != data.fingerprint:
        raise UserError(
            f"The data changed since step {step} of {root}: the prepared files, the seed or a "
            "field of `data` that decides the batches differ, so the run could not see the "
            "batches that come next. Restore them, or start another --workdir with "
            f"--config.train.init_from={root}."
        )


def changed_fields(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a run that resumes has in its config that the checkpoint's had not, for people."""
    now = json.loads(json.dumps(now))
    return [
        f"{name} was {before.get(name, 'the default')!r} and is {now.get(name, 'the default')!r}"
        for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    ]


@contextlib.contextmanager
def naming_init_from(name: str) -> Iterator[None]:
    """Mistakes in a model's name are told of the field that the user set."""
    try:
        yield
    except UserError as error:
        text, field = str(error), f"train.init_from={name!r}"
        if field not in text:
            known = f"model={name!r}"
            text = text.replace(known, field, 1) if known in text else f"{field}: {text}"
        raise UserError(text) from error


def warn_unexportable(model: ModelConfig, display: Display) -> None:
    """Says before hours of training that `jaxllm convert` will refuse the result, if it will."""
    try:
        check_writable(model)
    except UserError as error:
        display.warn(f"this model cannot be exported to Hugging Face afterwards: {error}")


def with_vocabulary(config: Config, tokenizer: Tokenizer) -> ModelConfig:
    """The run's model, whose embedding has a row for every token.

    Raises:
      UserError: it has too few.
    """
    model = config.model
    if model.vocab_size == 0:
        model = dataclasses.replace(model, vocab_size=tokenizer.vocab_size).completed()
    if tokenizer.vocab_size > model.vocab_size:
        if config.train.init_from:  # most likely the data has another tokenizer than that model
            check_tokenizer(config.train.init_from, tokenizer.hash)
        raise UserError(
            f"model.vocab_size={model.vocab_size} is smaller than the tokenizer's "
            f"{tokenizer.vocab_size} tokens: ids beyond the embedding would be wrong silently. "
            f"Set model.vocab_size to at least {tokenizer.vocab_size}, or to 0 for exactly that."
        )
    return model


def check_tokenizer(name: str, hash_: str) -> SavedModel:
    """The model that a run starts from, which must have the tokenizer of this hash.

    Raises:
      UserError: there is no such model, it has no tokenizer, or another one.
    """
    with naming_init_from(name):
        saved = find_model(name)
        theirs = saved.load_tokenizer()
    if theirs.hash != hash_:
        raise UserError(
            f"train.init_from={name!r} was trained with another tokenizer than the data: its "
            "embeddings would mean other tokens. Prepare the data with "
            f"--config.tokenizer.path={saved.tokenizer}."
        )
    return saved


def initial_params(name: str, setup: Setup, tokenizer_hash: str, display: Display) -> Params:
    """The parameters of the model that a run starts from.

    Raises:
      UserError: there is no such model, it has another tokenizer or other sizes, or a parameter
        of it is not finite.
    """
    saved = check_tokenizer(name, tokenizer_hash)
    with naming_init_from(name):
        model = saved.load(setup.compute, display.warn)
    if bad := first_not_finite(model.params):
        raise UserError(
            f"train.init_from={name!r}: its parameter {bad} is not finite (NaN or infinite), so "
            "nothing can be learned from there. Choose another model, or an earlier step of it."
        )
    there, here = _shapes(model.params), _shapes(setup.shapes.params)
    changed = [
        f"{place} has shape {there.get(place)} there and {here.get(place)} here"
        for place in sorted(there.keys() | here.keys()) if there.get(place) != here.get(place)
    ]
    if changed:
        raise UserError(
            f"train.init_from={name!r} does not fit the model: {'; '.join(changed[:3])}. Leave the "
            "sizes in `model` unset, so that they follow from it."
        )
    display.message(f"starting from {saved.name} (step {model.step:,})")
    return model.params


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {".".join(key.key for key in path): leaf.shape for path, leaf in leaves}


def _changes(theirs: Any, ours: Any, where: str) -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            change for name in sorted(theirs.keys() | ours.keys())
            for change in _changes(theirs.get(name), ours.get(name), f"{where}.{name}")
        ]
    return [] if theirs == ours else [f"{where} was {theirs!r} and is {ours!r}"]
