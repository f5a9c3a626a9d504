"""From parameters to a Hugging Face folder: the blocks of a checkpoint into tensors in their files.

The reverse of `importer`, by the same tables: the folder's files are mapped and each block is
copied to its place, so that a block is all that memory holds.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_bytes, atomic_write_text, path
from jaxllm.core.streaming import Index
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.data.tokenizers.export import export_files
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.copy import all_finite, copy_cast
from jaxllm.models.hf.family import differences, family
from jaxllm.models.hf.importer import CONFIG
from jaxllm.models.hf.mapping import flatten, tensors
from jaxllm.models.hf.safetensors import Writer
from jaxllm.nn.module import Params

GENERATION = "generation_config.json"
DTYPE_KEYS = ("dtype", "torch_dtype")  # of transformers 5 and 4
# A block of a parameter, and the index that cuts it out.
Blocks = Iterable[tuple[Index, np.ndarray]]


def export_params(
    folder: str | os.PathLike, config: ModelConfig, specs: Params,
    dtypes: Mapping[str, np.dtype], read: Callable[[str], Blocks], shard_bytes: int,
) -> None:
    """Writes the safetensors files of a model, and their index where there are several.

    Args:
      dtypes: of each parameter in the files, by dotted path.
      read: the blocks of a parameter, each once and in any order.

    Raises:
      UserError: the folder cannot be written, the disk has not the room, or a parameter is not
        finite.
    """
    owner = family(config.family)
    wanted = tensors(owner.names(config), specs)
    named = {part.path: tensor.name for tensor in wanted for part in tensor.parts}
    plan = {t.name: (t.shape, _common({dtypes[part.path] for part in t.parts})) for t in wanted}
    copies = {n: of for n, of in owner.copies.items() if of in plan and n not in plan}
    writer = Writer(folder, {**plan, **{n: plan[of] for n, of in copies.items()}}, shard_bytes)
    places = {
        (part.path, part.layer): tensor.cut(writer[tensor.name])[number]
        for tensor in wanted for number, part in enumerate(tensor.parts)
    }
    for name, spec in flatten(specs).items():
        stacked = spec.axes[:1] == ("layers",)
        for index, block in read(name):
            if not all_finite(block):
                raise UserError(
                    f"The parameter {name} (tensor {named[name]}) of the checkpoint has values "
                    "that are not finite (NaN or infinite): the model would write nothing. Choose "
                    "another step, RUN@STEP."
                )
            if not stacked:
                copy_cast(places[name, None][index], block)
                continue
            for row, layer in enumerate(range(*index[0].indices(spec.shape[0]))):
                copy_cast(places[name, layer][index[1:]], block[row])
        writer.release()
    for name, of in copies.items():
        writer[name][...] = writer[of]
    writer.sync()


def _common(dtypes: set[np.dtype]) -> np.dtype:
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)


def check_writable(config: ModelConfig, carried: Mapping[str, bytes] | None = None) -> None:
    """Refuses a model that its family's config.json, and so its weight table, cannot say.

    `carried` as for `write_config`.

    Raises:
      UserError: see `Family.write`.
    """
    if config.vocab_size == 0:  # the tokenizer's, not known yet
        config = dataclasses.replace(config, vocab_size=1, decoder_start_id=-1)
    config = config.completed()
    owner, content = family(config.family), (carried or {}).get(CONFIG)
    owner.architecture_of(config)
    theirs = json.loads(content) if content else {}
    if theirs.get("model_type") in (owner.model_type, *owner.also) and not differences(
        config, owner.read(theirs)
    ):
        return
    owner.write(config)


def write_config(
    folder: str | os.PathLike, config: ModelConfig, dtype: np.dtype,
    carried: Mapping[str, bytes], tokenizer: Tokenizer | None,
) -> None:
    """config.json and generation_config.json.

    `carried` are those of the folder that the model once came from, if it did: they are kept byte
    for byte where they say what the model still is.

    Raises:
      UserError: see `Family.write`.
    """
    owner, content = family(config.family), carried.get(CONFIG)
    theirs = json.loads(content) if content else {}
    told = next((theirs[key] for key in DTYPE_KEYS if theirs.get(key)), None)
    known = theirs.get("model_type") in (owner.model_type, *owner.also)
    # an older or a larger class that the model was read from: its other tensors are not there
    own = owner.architecture_of(config) in theirs.get("architectures", ["another"])
    same = known and own and told in (None, dtype.name)
    if not (same and not differences(config, owner.read(theirs))):
        content = _json(_changed(owner, config, theirs if known else {}, dtype, tokenizer))
    atomic_write_bytes(path(folder) / CONFIG, content)
    generation = carried.get(GENERATION)
    start = _start(json.loads(content))
    if generation is None:
        generation = _json({**_token_ids(tokenizer), **start})
    elif start and json.loads(generation).get("decoder_start_token_id", *start.values()) not in (
        *start.values(),
    ):
        generation = _json({**json.loads(generation), **start})
    atomic_write_bytes(path(folder) / GENERATION, generation)


def _changed(
    owner: Any, config: ModelConfig, theirs: Mapping[str, Any], dtype: np.dtype,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """config.json of the model as it is; what `theirs` says beside the model is kept."""
    written = owner.write(config)
    decided = {key for rule in owner.config for key in rule.keys} | {*DTYPE_KEYS, *written}
    kept = {key: value for key, value in theirs.items() if key not in decided}
    ids = {} if theirs else _token_ids(tokenizer)
    result = {**ids, **kept, **written, "dtype": dtype.name}
    if config.architecture == "encoder_decoder" and result.get("decoder_start_token_id") is None:
        result["decoder_start_token_id"] = result.get("pad_token_id")
    return result


def _token_ids(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    return {
        f"{role}_token_id": tokenizer and getattr(tokenizer, f"{role}_id")
        for role in ("bos", "eos", "pad")
    }


def _start(theirs: Mapping[str, Any]) -> dict[str, Any]:
    start = theirs.get("decoder_start_token_id")
    return {} if start is None else {"decoder_start_token_id": start}


def write_tokenizer(folder: str | os.PathLike, tokenizer: Tokenizer) -> None:
    """The tokenizer, for transformers and for us: read again it has the same hash."""
    for name, content in export_files(tokenizer).items():
        atomic_write_bytes(path(folder) / name, content)
    if tokenizer.kind != "huggingface":
        tokenizer.save(folder)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def write_record(folder: str | os.PathLike, name: str, record: Mapping[str, Any]) -> None:
    """A JSON file of the folder."""
    atomic_write_text(path(folder) / name, _json(record).decode())
