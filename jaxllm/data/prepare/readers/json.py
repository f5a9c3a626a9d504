"""JSON files that hold a list of objects, as most fine-tuning data sets are published: rows only.

A file of JSON lines with this ending is read as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.documents import Rejected
from jaxllm.data.prepare.readers import jsonl
from jaxllm.data.prepare.readers.base import BrokenFile, InputFile, decode, excerpt
from jaxllm.data.prepare.readers.streams import read_whole

ROW_ENDINGS = (".json",)


def read_rows(file: InputFile, config: InputConfig) -> Iterator[tuple[str, dict | Rejected]]:
    """The objects of the list, with their place in it, counted from 1.

    Raises:
      BrokenFile: neither a list of objects nor JSON lines.
    """
    data = read_whole(file, config.max_document_bytes)
    text = data if isinstance(data, Rejected) else decode(file.name, data)
    if isinstance(text, Rejected):
        raise BrokenFile(text.reason, text.excerpt)
    if not text.lstrip().startswith("["):
        yield from jsonl.read_rows(file, config)
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise BrokenFile("bad_json", f"{at}{error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            detail = f"a JSON {type(row).__name__}, no object"
            row = Rejected(f"{file.name}:{number}", "not_an_object", excerpt(detail, str(row)))
        yield f"row {number}", row
