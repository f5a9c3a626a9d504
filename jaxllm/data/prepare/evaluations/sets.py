"""Reads evaluation sets as examples of text: the very files that an evaluation reads.

A set is a file (JSON, JSON lines, CSV, TSV, XML, CoNLL, plain lines, also gzipped; Parquet), a
folder of such files, a task file of lm-evaluation-harness (YAML over local files), or a folder of
task files. Every text of an example counts, whatever its field is called: questions, choices,
answers and explanations are all given away by a document that holds them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from etils import epath

from jaxllm.core.errors import UserError, install
from jaxllm.core.paths import holds, path
from jaxllm.data.prepare.evaluations import tasks as evaluation_tasks

FORMATS = {  # by a file's ending
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".xml": "xml", ".conll": "conll", ".txt": "lines", ".lst": "lines",
    ".parquet": "parquet",
}
TASKS = (".yaml", ".yml")
HEADER_WORDS = 8  # a first row of a table with a cell this long is an example


@dataclass(frozen=True, slots=True)
class Example:
    """An example of an evaluation set."""

    set: str  # its file's name as it was given, or the task's name
    number: int  # from 0 in the file; a table's header is not counted
    fields: tuple[str, ...]  # the texts in it, in the file's order


def read_examples(name: str) -> Iterator[Example]:
    """The examples of a file, folder or task file.

    Raises:
      UserError: it does not exist, is damaged, holds no text, or its format is not known.
    """
    place = path(name)
    if not place.exists():
        near = holds(place.parent) or "Check the path."
        raise unreadable(name, "there is no such file or folder", near)
    count = 0
    for label, file, options in _files(name, place):
        form = _format(file, options)
        if form == "parquet":
            rows = _parquet(str(file), _bytes(file))
        else:
            rows = _rows(str(file), form, _text(str(file), _bytes(file)), options)
        for number, row in enumerate(rows):
            if fields := tuple(texts(row)):
                count += 1
                yield Example(label, number, fields)
    if not count:
        raise unreadable(name, "it holds no text", "Name the file with the examples.")


def unreadable(name: str, reason: str, fix: str) -> UserError:
    """The error of an evaluation set that cannot be read."""
    return UserError(f"decontaminate.sets: {name!r} cannot be read: {reason}. {fix}")


def _files(name: str, place: epath.Path) -> Iterator[tuple[str, epath.Path, Mapping]]:
    """(set, file, options) of every file that is to be read."""
    if not place.is_dir():
        if place.suffix in TASKS:
            yield from evaluation_tasks.files(place, unreadable)
        else:
            yield name, place, {}
        return
    found = sorted(_walk(place), key=str)
    tasks = [file for file in found if file.suffix in TASKS and file.name[0] != "_"]
    if tasks:
        for file in tasks:
            yield from evaluation_tasks.files(file, unreadable, groups=False)
        return
    data = [file for file in found if _ending(file) in FORMATS]
    if not data:
        raise unreadable(
            name, "the folder holds neither task files (.yaml) nor data files",
            f"Data files end in {', '.join(FORMATS)}.",
        )
    for file in data:
        yield f"{name.rstrip('/')}/{file.relative_to(place)}", file, {}


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _ending(file: epath.Path) -> str:
    name = file.name.removesuffix(".gz").lower()
    return name[name.rfind("."):] if "." in name else ""


def _format(file: epath.Path, options: Mapping) -> str:
    form = options.get("format") or FORMATS.get(_ending(file))
    if form is None:
        raise unreadable(
            str(file), f"the ending {_ending(file) or file.name!r} is not known",
            f"Convert it to JSON lines; what is read ends in {', '.join(FORMATS)}.",
        )
    return form


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(
            name, f"byte {error.start} is no UTF-8", "Convert the file to UTF-8."
        ) from error


def _bytes(file: epath.Path) -> bytes:
    """A file's content, whatever it is packed in."""
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(str(file), str(error), "Fetch the file again.") from error


def _rows(name: str, form: str, text: str, options: Mapping) -> Iterator[object]:
    """The examples of a file's text."""
    if form == "json":
        yield from _json(name, text, options.get("field"))
    elif form in ("csv", "tsv"):
        yield from _table(name, text, options.get("delimiter") or "\t,"[form == "csv"])
    elif form == "xml":
        yield from _xml(name, text)
    elif form == "conll":  # a token a line, its tags behind it; sentences between blank lines
        for block in text.split("\n\n"):
            yield " ".join(line.split()[0] for line in block.splitlines() if line.strip())
    else:
        yield from text.splitlines()


def _json(name: str, text: str, field: str | None) -> Iterator[object]:
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise unreadable(name, "it is nested too deep", "Flatten it.") from error
    except ValueError:  # several objects, or a number of 5,000 digits
        yield from _json_lines(name, text)
        return
    if field is not None:
        if not isinstance(content, dict) or field not in content:
            there = ", ".join(content) if isinstance(content, dict) else "none"
            raise unreadable(name, f"it has no field {field!r}", f"Fields there: {there[:200]}.")
        content = content[field]
    if isinstance(content, list):
        yield from content
        return
    values = list(content.values()) if isinstance(content, dict) else [content]
    lists = [value for value in values if isinstance(value, list) and value
             and isinstance(value[0], dict)]
    if lists:  # {"examples": [{…}, …]}, or a list for each split
        for value in lists:
            yield from value
    elif values and all(isinstance(value, dict) for value in values):
        yield from values  # examples by their names
    else:
        yield content


def _json_lines(name: str, text: str) -> Iterator[object]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except RecursionError as error:
            raise unreadable(
                f"{name}:{number}", "it is nested too deep", "Flatten or remove the line."
            ) from error
        except ValueError as error:
            reason = getattr(error, "msg", str(error).partition(";")[0])
            raise unreadable(
                f"{name}:{number}", f"it is no JSON ({reason})", "Repair or remove the line."
            ) from error


def _table(name: str, text: str, delimiter: str) -> Iterator[object]:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        first = next(lines, [])
        if any(len(cell.split()) >= HEADER_WORDS for cell in first):
            yield first
        yield from lines
    except csv.Error as error:
        raise unreadable(
            f"{name}:{lines.line_num}", str(error), "Convert the file to JSON lines."
        ) from error


def _xml(name: str, text: str) -> Iterator[object]:
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError) as error:
        raise unreadable(name, f"it is no XML ({error})", "Repair the file.") from error
    while len(root) == 1:  # <corpus><items><item>…
        root = root[0]
    for element in root if len(root) else [root]:
        yield list(element.itertext())


def _parquet(name: str, content: bytes) -> list[object]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise unreadable(
            name, "Parquet needs the library pyarrow, which is not installed",
            install("prep"),
        ) from error
    try:
        return pq.read_table(pa.BufferReader(content)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(name, str(error), "Fetch the file again.") from error


def texts(value: object) -> Iterator[str]:
    """Every text in a value, in its order."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if not value.isspace() and value:
                yield value
        elif isinstance(value, Mapping):
            stack += reversed(list(value.values()))
        elif isinstance(value, list):
            stack += reversed(value)
