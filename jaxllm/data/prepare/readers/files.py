"""The files that `input.paths` names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from etils import epath

from jaxllm.core.errors import UserError, nearest
from jaxllm.core.paths import holds, in_bucket, path
from jaxllm.data.prepare.config import InputConfig
from jaxllm.data.prepare.readers.base import InputFile
from jaxllm.data.prepare.readers.registry import (
    format_module,
    format_of,
    formats,
    known_endings,
)
from jaxllm.samples import sample

SAMPLE = "sample:"


def find_files(
    config: InputConfig, told: Callable[[str], None] = lambda text: None
) -> list[InputFile]:
    """The files that `input.paths` names, each once, in the order given and sorted within a glob.

    `told` hears of files in folders that are left out because their names tell no format.

    Raises:
      UserError: a path that is missing or whose format is unknown or cannot be told, an option
        that no file's format reads, or nothing but empty files.
    """
    if config.format != "auto":
        format_module(config.format)
    files: dict[tuple[str, str], InputFile] = {}
    left_out: list[str] = []
    for entry in config.paths:
        for file in _entry_files(entry, config, left_out):
            # the same file may hold several slices of a data set, told apart by their names
            key = (str(file.path), file.name if file.format == "tfds" else "")
            files.setdefault(key, file)
    if not any(file.bytes for file in files.values()):
        names = ", ".join(file.name for file in list(files.values())[:3])
        raise UserError(
            f"input.paths: every file that it names is empty ({len(files):,}, such as {names}). "
            "Name files that hold text."
        )
    _check_unread(config, {file.format for file in files.values()})
    if left_out:
        told(_left_out(left_out))
    return list(files.values())


def _left_out(names: Sequence[str]) -> str:
    kinds = Counter(os.path.splitext(name)[1] or "no ending" for name in names)
    shown = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5))
    more = ", …" if len(kinds) > 5 else ""
    return (
        f"input.paths: left out of its folders, as their names tell no format: {shown}{more}, such "
        f"as {names[0]}. To read them, name them, such as FOLDER/*.log, and set input.format."
    )


def _entry_files(entry: str, config: InputConfig, left_out: list[str]) -> Iterator[InputFile]:
    for kind, module in formats().items():
        if prefix := getattr(module, "PREFIX", ""):
            if entry.startswith(prefix) and config.format in ("auto", kind):
                yield from module.expand(entry, config)
                return
            if entry.startswith(prefix) or config.format == kind:
                raise UserError(
                    f"input.paths: {entry!r} and input.format={config.format!r} do not go "
                    f"together: entries that begin with {prefix!r} are of the format {kind!r}, and "
                    "no others. Leave input.format=auto."
                )
    for found, shown in expand(entry, left_out=left_out):
        kind = config.format if config.format != "auto" else _format(found, shown)
        yield InputFile(found, shown, kind, _size(found, shown), entry)


def _size(file: epath.Path, shown: str) -> int:
    try:
        return file.stat().length
    except OSError as error:
        raise UserError(
            f"input.paths: {shown} cannot be read: {error.strerror or error}. Remove it where it "
            "is a link to a file that is gone, or name the other files."
        ) from error


def expand(
    name: str, field: str = "input.paths", kind_of: Callable[[str], str | None] = format_of,
    left_out: list[str] | None = None,
) -> list[tuple[epath.Path, str]]:
    """The files behind a file's or folder's name or a glob, with the names to show.

    `field` is named in the errors; of a folder the files are those of which `kind_of` knows a kind,
    and the names of the others are added to `left_out`.

    Raises:
      UserError: nothing is there.
    """
    if not name:  # a path of "" is the current folder
        raise UserError(f"{field}: an entry is empty. Remove it, or write . for this folder.")
    if name.startswith(SAMPLE):
        found = path(sample(name.removeprefix(SAMPLE)))
        if not found.is_dir():
            return [(found, name)]
        return [(file, f"{name}/{file.name}") for file in sorted(found.glob("*.txt"))]
    root = path(name)
    if root.is_dir():
        others: list[str] = []
        found = list(_walk(root, field, kind_of, others))
        if left_out is not None:
            left_out.extend(others)
        if not found:
            raise UserError(
                f"{field}: the folder {name} holds no file that ends in "
                f"{', '.join(known_endings())}. Name the files, such as FOLDER/*.log"
                f"{', and set input.format' if kind_of is format_of else ''}."
            )
    elif root.exists():
        found = [root]
    elif glob.has_magic(name):
        base, found = _glob(root)
        if not found:
            raise UserError(f"{field}: nothing matches {name!r}. {_neighbours(base)}")
    elif os.path.islink(root):
        raise UserError(
            f"{field}: {name} is a link to {os.readlink(root)}, which is gone or leads back to the "
            "link. Remove it, or name another file."
        )
    else:
        near = _neighbours(root.parent, root.name)
        raise UserError(f"{field}: {name} does not exist. {near}")
    return [(file, str(file)) for file in found]


def _walk(
    folder: epath.Path, field: str, kind_of: Callable[[str], str | None], others: list[str],
    above: tuple[str, ...] = (),
) -> Iterator[epath.Path]:
    """The files of known formats in a folder and below; a link to one of the folders `above`
    is not followed. The names of the other files are added to `others`."""
    above = (*above, os.path.realpath(folder))
    for module in formats().values():
        take = getattr(module, "folder_files", None)
        if take and (found := take(folder, field)) is not None:
            yield from found
            return
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            if os.path.realpath(item) not in above:
                yield from _walk(item, field, kind_of, others, above)
        elif kind_of(item.name):
            yield item
        else:
            others.append(str(item))


def _glob(pattern: epath.Path) -> tuple[epath.Path, list[epath.Path]]:
    """The folder in which the pattern begins, and the files that match it."""
    base = pattern
    while glob.has_magic(str(base)):
        base = base.parent
    if in_bucket(pattern):  # `**` is left to the local disk: in a bucket it lists everything
        found = base.glob(str(pattern)[len(str(base)) :].lstrip("/"))
    else:
        found = [path(name) for name in glob.glob(str(pattern), recursive=True)]
    return base, [file for file in sorted(found) if file.is_file()]


def _neighbours(folder: epath.Path, name: str = "") -> str:
    if not folder.exists():
        return f"Nor does its folder {folder}."
    names = [file.name for file in folder.iterdir()]
    if name and (near := nearest(name, names, listed=False)):
        return near
    return holds(folder) or f"The folder {folder} is empty."


def _format(file: epath.Path, shown: str) -> str:
    if kind := format_of(file.name):
        return kind
    raise UserError(
        f"input.paths: the format of {shown} cannot be told from its ending (known: "
        f"{', '.join(known_endings())}). Set --config.input.format to one of "
        f"{', '.join(formats())}."
    )


def _check_unread(config: InputConfig, found: Iterable[str]) -> None:
    usual = type(config)()
    read = {option for kind in found for option in formats()[kind].OPTIONS}
    for option in sorted({o for module in formats().values() for o in module.OPTIONS} - read):
        value = getattr(config, option)
        if value != getattr(usual, option):
            owners = [kind for kind, module in formats().items() if option in module.OPTIONS]
            raise UserError(
                f"input.{option}={value!r} has no effect: the files are of the format "
                f"{', '.join(sorted(found))}, and it is read for {', '.join(owners)}. Remove it, "
                "or set input.format."
            )
