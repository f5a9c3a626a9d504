"""The loss of trained models on prepared data: did it learn the domain, what did it forget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from jaxllm.core.config import MeshConfig
from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.mesh import Sharding, check_batch, make_mesh
from jaxllm.core.paths import path, shortest_names
from jaxllm.core.rundir import Record, append_records
from jaxllm.data import tokenizers
from jaxllm.data.config import DataConfig
from jaxllm.data.loader import ValidationData
from jaxllm.models.load import SavedModel, find_model
from jaxllm.nn.compute import make_compute
from jaxllm.train.evaluate import validation_record
from jaxllm.train.feed import local_rows
from jaxllm.train.losses import LossOptions
from jaxllm.train.step import jit_eval_step


def evaluate_perplexity(
    models: Sequence[str], data: Sequence[str], display: Display, *, batch_size: int = 16,
    batches: int = 0, sequence_length: int = 0,
) -> list[tuple[str, Record]]:
    """(model, record) for every model on the validation split of every prepared folder.

    The records (split `eval/FOLDER`, with as many parents as tell the folders apart) also go into
    the metrics of the model's run directory. `sequence_length` 0 takes each model's own; `batches`
    0 takes the whole split, null in the record.

    Raises:
      UserError: no such model or data, data prepared with another tokenizer, or rows longer than
        the model's learned positions.
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
        length = sequence_length or own.sequence_length
        saved.config.check_length(length, "sequence_length")
        tokenizer = saved.load_tokenizer()
        own = dataclasses.replace(own, sequence_length=length)
        start_id = saved.config.decoder_start_id
        splits = [_validation(folder, tokenizer, own, start_id, saved) for folder in data]
        with display.phase(f"reading {name}"):
            model = saved.load(make_compute(sharding), display.warn)
        step = jit_eval_step(model, LossOptions(logit_softcap=model.config.logit_softcap))
        records = []
        for folder, split in zip(names, splits, strict=True):
            with display.phase(f"evaluating {name} on {folder}"):
                record = validation_record(
                    step, model.params, split.batches(batch_size, batches, rows), sharding,
                    step=model.step, split=f"eval/{folder}", batch_size=batch_size,
                    bytes_per_token=split.bytes_per_token,
                )
            records.append({**record, "batches": batches or None, "sequence_length": length})
        if saved.run:  # a Hugging Face folder keeps no measurements
            append_records(saved.run, records, writes=jax.process_index() == 0)
        results += [(name, record) for record in records]
    return results


def comparison(results: Sequence[tuple[str, Record]], field: str = "loss") -> tuple[list, list]:
    """Columns and rows of a table: a row per data set, a column per model.

    With two models or more, the last column is the last model minus the first.
    """
    models = list(dict.fromkeys(name for name, _ in results))
    values: dict[str, dict[str, Any]] = {}
    for name, record in results:
        values.setdefault(record["split"].removeprefix("eval/"), {})[name] = record[field]
    columns = ["data", *models] + (["difference"] if len(models) > 1 else [])
    rows = []
    for data, by_model in values.items():
        row = [data, *(by_model[name] for name in models)]
        if len(models) > 1 and None not in row:
            row.append(f"{row[-1] - row[1]:+.4f}")
        rows.append(row + [None] * (len(columns) - len(row)))
    return columns, rows


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
