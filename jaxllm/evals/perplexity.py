"""The loss of trained models on prepared data: did it learn the domain, what did it forget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from etils import epath

from jaxllm.core.config import MeshConfig
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError, naming_memory
from jaxllm.core.mesh import Sharding, check_batch, make_mesh
from jaxllm.core.paths import path, shortest_names
from jaxllm.core.rundir import Record, append_records
from jaxllm.data import tokenizers
from jaxllm.data.config import DataConfig
from jaxllm.data.loader import ValidationData
from jaxllm.data.objectives import stream_config, trains_on_rows
from jaxllm.models.config import LANGUAGE_HEADS
from jaxllm.models.load import SavedModel, find_model
from jaxllm.nn.compute import make_compute
from jaxllm.train.evaluate import validation_record
from jaxllm.train.feed import local_rows
from jaxllm.train.losses import LossOptions
from jaxllm.train.step import jit_eval_step

MEMORY = "Lower --batch_size or --sequence_length."


def evaluate_perplexity(
    models: Sequence[str], data: Sequence[str], display: Display, *, batch_size: int = 16,
    batches: int = 0, sequence_length: int = 0,
) -> list[tuple[str, Record]]:
    """(model, record) for every model on the validation split of every prepared folder.

    The records (split `eval/FOLDER`, with as many parents as tell the folders apart) also go into
    the metrics of the model's run directory. `sequence_length` 0 takes each model's own; `batches`
    0 takes the whole split, null in the record.

    Raises:
      UserError: no such model or data, a model that predicts no tokens, data prepared with another
        tokenizer, or rows longer than the model's learned positions or than the memory.
    """
    data = list(dict.fromkeys(path(folder) for folder in data))
    names = shortest_names(data)
    sharding = Sharding(make_mesh(MeshConfig()))
    check_batch(sharding, batch_size, "--batch_size")
    rows = local_rows(sharding, batch_size)
    results = []
    for name in models:
        saved = find_model(name)
        own = saved.data
        _check_predicts(saved)
        length = sequence_length or own.sequence_length
        saved.config.check_length(length, "sequence_length")
        tokenizer = saved.load_tokenizer()
        own = dataclasses.replace(own, sequence_length=length)
        if trains_on_rows(own.objective):  # tuned on rows, measured on text
            own = stream_config(own, bool(tokenizer.sentinel_ids))
        start_id = saved.config.decoder_start_id
        splits = [_validation(folder, tokenizer, own, start_id, saved) for folder in data]
        with display.phase(f"reading {name}"):
            model = saved.load(make_compute(sharding), display.warn)
        step = jit_eval_step(model, LossOptions(logit_softcap=model.config.logit_softcap))
        records = []
        for folder, split in zip(names, splits, strict=True):
            size = f"A batch of batch_size={batch_size} rows of sequence_length={length}"
            with display.phase(f"evaluating {name} on {folder}"), naming_memory(size, MEMORY):
                record = validation_record(
                    step, model.params, split.batches(batch_size, batches, rows), sharding,
                    step=model.step, split=f"eval/{folder}", batch_size=batch_size,
                    bytes_per_token=split.bytes_per_token,
                )
            if record["loss"] is None:
                display.warn(f"{name} on {folder}: the loss is not finite, so it has no number")
            records.append({
                **record, "batches": batches or None, "sequence_length": length,
                "objective": own.objective,
            })
        if saved.run:  # a Hugging Face folder keeps no measurements
            append_records(saved.run, records, writes=jax.process_index() == 0)
        results += [(name, record) for record in records]
    if len(tasks := {record["objective"] for _, record in results}) > 1:
        display.message(
            f"the models have different objectives ({', '.join(sorted(tasks))}): their losses are "
            "of different tasks and do not compare, so no difference is shown"
        )
    if len(lengths := {record["sequence_length"] for _, record in results}) > 1:
        display.message(
            f"the models are measured in rows of different lengths ({_listed(lengths)} tokens), "
            "and longer rows give lower losses: --sequence_length measures all alike"
        )
    return results


def comparison(results: Sequence[tuple[str, Record]], field: str = "loss") -> tuple[list, list]:
    """Columns and rows of a table: a row per data set, a column per model.

    With two models or more of one objective, the last column is the last model minus the first.
    """
    models = list(dict.fromkeys(name for name, _ in results))
    titles = shortest_names([path(name) for name in models])
    compares = len(models) > 1 and len({r.get("objective") for _, r in results}) == 1
    values: dict[str, dict[str, Any]] = {}
    for name, record in results:
        values.setdefault(record["split"].removeprefix("eval/"), {})[name] = record[field]
    columns = ["data", *titles] + ([f"{titles[-1]} − {titles[0]}"] if compares else [])
    rows = []
    for data, by_model in values.items():
        row = [data, *(by_model[name] for name in models)]
        if compares and None not in row:
            row.append(f"{row[-1] - row[1]:+.4f}")
        rows.append(row + [None] * (len(columns) - len(row)))
    return columns, rows


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _check_predicts(saved: SavedModel) -> None:
    config = saved.config
    if config.head.kind not in LANGUAGE_HEADS:
        raise UserError(
            f"model={saved.name!r} has model.architecture={config.architecture!r} and "
            f"model.head.kind={config.head.kind!r}: it predicts no tokens, so it has no loss on "
            "text. Name a language model: a head of kind 'lm' or 'masked_lm'."
        )


def _validation(
    folder: epath.Path, tokenizer: tokenizers.Tokenizer, own: DataConfig, start_id: int,
    model: SavedModel,
) -> ValidationData:
    split = ValidationData(str(folder), own, start_id)
    theirs = split.source.load_tokenizer()
    if theirs.hash != tokenizer.hash:
        raise UserError(
            f"{folder} was prepared with another tokenizer than {model.name}'s: its token ids mean "
            f"other text. Prepare it with --config.tokenizer.path={model.tokenizer}."
        )
    return split
