"""The generation defaults that a Hugging Face folder carries: generation_config.json.

Older folders have the same keys in config.json.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.generate.steps import TokenRules
from jaxllm.models.config import ModelConfig

FILE, CONFIG = "generation_config.json", "config.json"

# Keys that change what is written and that we have not, with the values that switch them off.
_MISSING: dict[str, tuple[Any, ...]] = {
    "min_length": (0,), "min_new_tokens": (0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "repetition_penalty": (1,), "typical_p": (1,),
    "bad_words_ids": ([],), "suppress_tokens": ([],), "begin_suppress_tokens": ([],),
    "num_beam_groups": (1,), "diversity_penalty": (0,), "epsilon_cutoff": (0,),
    "eta_cutoff": (0,), "penalty_alpha": (0,), "encoder_repetition_penalty": (1,),
    "sequence_bias": ({},), "exponential_decay_length_penalty": (), "forced_decoder_ids": (),
}


@dataclass(frozen=True)
class Defaults:
    """What `LoadedModel.generate` takes where its caller says nothing; None: our own."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    rules: TokenRules | None = None

    def otherwise(self, other: Defaults) -> Defaults:
        """These, and those of `other` where these say nothing."""
        return Defaults(**{
            item.name: getattr(other if getattr(self, item.name) is None else self, item.name)
            for item in dataclasses.fields(self)
        })


def read_defaults(
    folder: str | os.PathLike, config: ModelConfig, warn: Callable[[str], None]
) -> Defaults:
    """The defaults of a folder; `warn` hears of those that have no effect here.

    Raises:
      UserError: the file is damaged.
    """
    own = (path(folder) / FILE).exists()
    name = FILE if own else CONFIG
    theirs = _read(path(folder) / name)
    for key, off in _MISSING.items():
        if theirs.get(key) not in (None, *off):
            warn(f"{name}: {key}={theirs[key]!r} is not implemented and has no effect.")
    drawn = theirs.get("do_sample", False)
    if not own and not drawn:  # an old config.json says nothing of sampling
        temperature = None
    else:
        temperature = theirs.get("temperature", 1.0) if drawn else 0.0
    read = theirs.get if drawn else lambda key: None
    return Defaults(
        max_new_tokens=_new_tokens(theirs, config), temperature=temperature,
        top_k=read("top_k"), top_p=read("top_p"), min_p=read("min_p"),
        beams=theirs.get("num_beams"), length_penalty=theirs.get("length_penalty"),
        early_stopping=theirs.get("early_stopping"), rules=_rules(theirs, config),
    )


def _new_tokens(theirs: dict[str, Any], config: ModelConfig) -> int | None:
    if theirs.get("max_new_tokens") is not None:
        return theirs["max_new_tokens"]
    length = theirs.get("max_length")
    # of an encoder-decoder it counts the start token; of a decoder the prompt too
    return length - 1 if length and config.architecture == "encoder_decoder" else None


def _rules(theirs: dict[str, Any], config: ModelConfig) -> TokenRules | None:
    eos = theirs.get("eos_token_id")
    if eos is None:
        return None
    if config.architecture != "encoder_decoder":
        return TokenRules(_ids(eos))
    last = theirs.get("forced_eos_token_id")
    return TokenRules(
        _ids(eos), theirs.get("forced_bos_token_id"), None if last is None else _ids(last)[0]
    )


def _ids(value: int | list[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _read(file: os.PathLike) -> dict[str, Any]:
    try:
        theirs = json.loads(path(file).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): download it again.") from error
    return theirs if isinstance(theirs, dict) else {}
