"""Tokenizers: one file per kind, found by its name; all behind the class `Tokenizer`.

A tokenizer folder holds the kind's own files and `jaxllm_tokenizer.json`, which says the kind, the
vocabulary size, the special ids and a hash. A Hugging Face folder is accepted wherever a tokenizer
folder is.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from types import ModuleType

from jaxllm.core.errors import UserError, unknown
from jaxllm.core.paths import path
from jaxllm.data.tokenizers.base import METADATA, SpecialTokens, Tokenizer
from jaxllm.data.tokenizers.stream import StreamDecoder

PARTS = {"base", "chat", "export", "fast", "pieces", "stream"}  # files that are no kinds
__all__ = [
    "SpecialTokens", "StreamDecoder", "Tokenizer", "has_tokenizer", "kind_module", "kinds", "load",
]


def kinds() -> list[str]:
    """The kinds of tokenizers there are."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(set(names) - PARTS)


def kind_module(kind: str) -> ModuleType:
    """The file of a kind: `load(folder)`, and `train(texts, config)` where it can be trained.

    Raises:
      UserError: there is no such kind.
    """
    if kind not in kinds():
        raise unknown("tokenizer.kind", kind, kinds())
    return importlib.import_module(f"{__name__}.{kind}")


def load(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a tokenizer folder, or of a Hugging Face folder.

    Raises:
      UserError: there is no tokenizer, or its files are not those it was saved with.
    """
    folder = path(folder)
    metadata = folder / METADATA
    if metadata.exists():
        try:
            saved = json.loads(metadata.read_text())
            kind, saved_hash = saved["kind"], saved["hash"]
            template = saved.get("chat_template")
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(metadata, error) from error
        try:
            tokenizer = kind_module(kind).load(folder)
        except UserError:
            raise
        except Exception as error:  # what a library raises for a file that is not its own
            raise _damaged(folder, error) from error
        if tokenizer.hash != saved_hash:
            raise UserError(
                f"The tokenizer in {folder} was changed after it was saved: its hash is "
                f"{tokenizer.hash[:12]}, {METADATA} says {saved_hash[:12]}. Restore its files, "
                "or prepare the data again."
            )
        return tokenizer if template is None else tokenizer.with_chat_template(template)
    huggingface = kind_module("huggingface")
    if huggingface.is_tokenizer_folder(folder):
        return huggingface.load(folder)
    inside = folder / "tokenizer"
    hint = f" Did you mean {inside}?" if inside.exists() else ""
    raise UserError(
        f"{folder} holds no tokenizer: neither {METADATA} nor the files of a Hugging Face "
        "tokenizer (tokenizer.json) are there."
        + (hint or " Copy those of its model into it (from the place that it was downloaded "
           "from), or name the folder that has them.")
    )


def has_tokenizer(folder: str | os.PathLike) -> bool:
    """Whether `load` finds a tokenizer in a folder."""
    folder = path(folder)
    return (folder / METADATA).exists() or kind_module("huggingface").is_tokenizer_folder(folder)


def _damaged(file, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"The tokenizer {file} is damaged or not complete ({type(error).__name__}: {reason}). Copy "
        "its folder again, or prepare the data again with --overwrite."
    )
