"""Where a run's first state comes from, and whether that fits: its checkpoint, or another model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxllm.core.checkpoint import Meta
from jaxllm.core.config import resolve, to_dict
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.loader import TrainingData
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.models.adapters.start import start_params
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.exporter import check_writable
from jaxllm.models.load import SavedModel, find_model
from jaxllm.models.parameters import first_not_finite
from jaxllm.nn.module import Params
from jaxllm.train.config import Config
from jaxllm.train.distill.cache import read_info
from jaxllm.train.distill.loss import naming_teacher
from jaxllm.train.state import Setup
from jaxllm.train.tune import REPLAY


def check_fits(
    setup: Setup, config: Config, data: TrainingData, directory: RunDirectory, meta: Meta
) -> None:
    """Refuses to go on from a checkpoint of another model, optimizer, tokenizer or of other data.

    Raises:
      UserError: naming what differs.
    """
    root, step = directory.root, meta["step"]
    ours, theirs = to_dict(setup.model), to_dict(resolve(ModelConfig, meta["model"], "model"))
    if changed := _changes(theirs, ours, "model"):
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
    if (base := base_of(setup, config)) != (before := meta.get("base", "")):
        raise UserError(
            f"The checkpoint of step {step} in {root} is for another base than train.init_from="
            f"{config.train.init_from!r} holds now ({before[:12] or 'none'}, not "
            f"{base[:12] or 'none'}).{_step_with(config.train.init_from, before)} Name the base as "
            "it was, or choose another --workdir."
        )
    before, teacher = meta.get("teacher", ""), teacher_of(config)
    if before and teacher and before != teacher:
        named = config.tune.distillation
        raise UserError(
            f"The checkpoint of step {step} in {root} learned from another teacher than tune."
            f"distillation.{'teacher' if named.teacher else 'cache'}="
            f"{named.teacher or named.cache!r} holds now ({before[:12]}, not {teacher[:12]})."
            f"{_step_with(named.teacher, before)} Name the teacher as it was, or go on in another "
            f"--workdir with --config.train.init_from={root}."
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


def base_of(setup: Setup, config: Config) -> str:
    """The fingerprint of the base whose parameters a run leaves as they are, or compares with.

    "": it does neither.
    """
    if not (setup.shapes.frozen or setup.shapes.reference):
        return ""
    with naming_init_from(config.train.init_from):
        return find_model(config.train.init_from).fingerprint


def teacher_of(config: Config) -> str:
    """The fingerprint of the teacher that a run learns from, itself or what was kept of it.

    "": of none.
    """
    options = config.tune.distillation
    if options.cache:
        return read_info(options.cache).teacher_fingerprint
    if not options.teacher:
        return ""
    with naming_teacher(options.teacher):
        return find_model(options.teacher).fingerprint


def _step_with(name: str, wanted: str) -> str:
    """Where a run that is named still has a step of the fingerprint: a sentence that says so."""
    found = find_model(name).named_step(wanted) if name and wanted else ""
    return f" It is {found}." if found else ""


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
        raise UserError(text + _debug_run(name)) from error


def _debug_run(name: str) -> str:
    """How a debug run that a recipe starts from is made, if it is missing: a sentence or ""."""
    match = re.fullmatch(r"runs/debug/(\w+)", name)
    if match is None or os.path.exists(name):
        return ""
    recipes = (f"{folder}/{match[1]}.py" for folder in ("configs", "configs/tune"))
    recipe = next(filter(os.path.isfile, recipes), "")
    made = f"jaxllm train --config={recipe}:debug --workdir={name}"
    return f" A debug run makes it: {made}" if recipe else ""


def warn_unexportable(model: ModelConfig, display: Display) -> None:
    """Says before hours of training that `jaxllm convert` will refuse the result, if it will."""
    try:
        check_writable(model)
    except UserError as error:
        display.warn(f"this model cannot be exported to Hugging Face afterwards: {error}")


def tokenizer_folder(config: Config) -> str:
    """The folder of the tokenizer that rows are written with: the config's, or the base's.

    "" where there is neither.

    Raises:
      UserError: there is no such base.
    """
    if config.tokenizer.path or not config.train.init_from:
        return config.tokenizer.path
    with naming_init_from(config.train.init_from):
        return str(find_model(config.train.init_from).tokenizer)


def with_steps(config: Config, data: TrainingData) -> Config:
    """The config, whose `train.epochs` has become steps.

    An epoch is as many examples as the run's own sources have together, and with them what is
    replayed.
    """
    if not config.train.epochs:
        return config
    replayed = REPLAY if config.tune.replay.path else ""  # a run's own source may have that name
    own = sum(count for name, count in data.epochs.items() if name != replayed)
    share = config.tune.replay.share if replayed else 0.0
    examples = config.train.epochs * own / (1 - share)
    steps = max(math.ceil(examples / config.data.global_batch_size), 1)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


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


def with_labels(model: ModelConfig, labels: Sequence[str]) -> ModelConfig:
    """The model, whose classification head has a score for each of the data's labels.

    Raises:
      UserError: it has another number of classes, or the same in another order.
    """
    head = model.head
    if not head.kind.endswith("classification"):
        return model
    if head.labels not in (0, len(labels)):
        raise UserError(
            f"model.head.labels={head.labels} and the data has {len(labels)} labels "
            f"({', '.join(labels[:8])}{', …' if len(labels) > 8 else ''}). Leave model.head.labels "
            "unset, or name the labels in the order of their ids with data.labels."
        )
    if head.label_names != tuple(labels) and set(head.label_names) == set(labels):
        raise UserError(
            f"data.labels={tuple(labels)} are the classes of train.init_from in another order "
            f"({head.label_names}): its head's scores would mean other ones. Leave data.labels out."
        )
    head = dataclasses.replace(head, labels=len(labels), label_names=tuple(labels))
    return dataclasses.replace(model, head=head)


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


def initial_params(
    name: str, setup: Setup, tokenizer_hash: str, seed: int, display: Display,
    trained: Params | None = None,
) -> Params:
    """The parameters of the model that a run starts from; new ones are drawn with `seed`.

    `trained` is what trains where a checkpoint has it: adapters are then not begun anew (which of
    PiSSA would be a decomposition, that another machine does not repeat bit by bit).

    Raises:
      UserError: there is no such model, it has another tokenizer or other sizes, or a parameter
        of it is not finite.
    """
    saved = check_tokenizer(name, tokenizer_hash)
    with naming_init_from(name):
        params = _params(saved, setup, seed, display, trained)
    if bad := first_not_finite(params):
        raise UserError(
            f"train.init_from={name!r}: its parameter {bad} is not finite (NaN or infinite), so "
            "nothing can be learned from there. Choose another model, or an earlier step of it."
        )
    display.message(f"starting from {saved.name}")
    return params


def _params(
    saved: SavedModel, setup: Setup, seed: int, display: Display, trained: Params | None
) -> Params:
    """The model's parameters, adapted to what the run trains."""
    here, there = setup.model, saved.config
    if here.head.kind != there.head.kind:
        display.message(f"the head of {here.head.kind} starts anew")
    elif "lora" not in (here.adapter.method, there.adapter.method):
        params = saved.load(setup.compute, display.warn).params  # all of it at once
        _check_shapes(saved.name, params, setup)
        return params
    key = jax.random.key(seed)
    return start_params(saved, setup.structure, setup.specs, key, display.warn, trained)


def _check_shapes(name: str, params: Params, setup: Setup) -> None:
    """Refuses the parameters of a model of other sizes."""
    there, here = _shapes(params), _shapes(setup.shapes.whole())
    changed = [
        f"{place} has shape {there.get(place)} there and {here.get(place)} here"
        for place in sorted(there.keys() | here.keys()) if there.get(place) != here.get(place)
    ]
    if changed:
        raise UserError(
            f"train.init_from={name!r} does not fit the model: {'; '.join(changed[:3])}. Leave the "
            "sizes in `model` unset, so that they follow from it."
        )


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
