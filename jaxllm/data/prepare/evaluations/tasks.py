"""Which files a task file of lm-evaluation-harness evaluates on.

A task file is YAML with `task`, `dataset_path`, `dataset_kwargs.data_files` and the names of the
splits; `include` names a file whose settings come first. Templates and `!function` helpers say how
an example is shown, not which text it holds, so they are not run. `dataset_path` has to be local:
a builder (json, csv, text, parquet) with data files, or a folder with a file for each split. Paths
are taken from the current folder as the harness does, then from the task file's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml
from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path

BUILDERS = {"json": "json", "csv": "csv", "text": "lines", "parquet": "parquet"}
SPLITS = {  # what a file of a split is called where a folder is the data set
    "test": ("test",), "validation": ("validation", "valid", "val", "dev"), "train": ("train",),
}
Unreadable = Callable[[str, str, str], UserError]


class _Loader(yaml.SafeLoader):
    """YAML with the harness' `!function` tags, which are not needed here."""


_Loader.add_constructor("!function", lambda loader, node: None)


def files(
    task: epath.Path, unreadable: Unreadable, *, groups: bool = True
) -> Iterator[tuple[str, epath.Path, Mapping]]:
    """(task's name, data file, how to read it) of the split that a task file evaluates on.

    A group of tasks names no data: nothing is given for it, or an error raised where `groups`.
    """
    config = _read(task, unreadable, ())
    if not config.get("dataset_path"):
        if groups:
            raise unreadable(
                str(task), "it has no dataset_path, so it is a group of tasks or no task file",
                "Name the folder that holds its tasks, or the tasks' own files.",
            )
        return
    split = str(config.get("test_split") or config.get("validation_split") or "")
    if not split:
        raise unreadable(
            str(task), "it has neither test_split nor validation_split",
            "Add the split that is evaluated.",
        )
    name, options = str(config.get("task") or task.stem), {}
    source, settings = str(config["dataset_path"]), config.get("dataset_kwargs") or {}
    if not isinstance(settings, dict):
        raise unreadable(
            str(task), f"dataset_kwargs={settings!r} is no mapping", "Write data_files: below it."
        )
    if "data_files" in settings:
        if source not in BUILDERS:
            raise unreadable(
                str(task), f"dataset_path={source!r} with data_files is not local",
                f"Set dataset_path to one of {', '.join(BUILDERS)}.",
            )
        options = {
            "format": BUILDERS[source], "field": settings.get("field"),
            "delimiter": settings.get("delimiter") or settings.get("sep"),
        }
        named = _of_split(task, settings["data_files"], split, unreadable)
        found = [file for entry in named for file in _resolve(task, entry, unreadable)]
    else:
        found = _of_folder(task, source, split, unreadable)
    for file in found:
        yield name, file, options


def _read(file: epath.Path, unreadable: Unreadable, above: tuple[str, ...]) -> dict:
    """A task file's settings over those that it includes."""
    if str(file) in above:
        raise unreadable(str(file), "it includes itself", "Remove an include.")
    try:
        config = yaml.load(file.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise unreadable(str(file), f"it is no YAML ({reason})", "Repair the file.") from error
    if not isinstance(config, dict):
        raise unreadable(str(file), "it is no task file: no settings", "Name another file.")
    includes = config.pop("include", None) or []
    merged: dict = {}
    for include in [includes] if isinstance(includes, str) else includes:
        below = _included(file, str(include), unreadable)
        merged |= _read(below, unreadable, (*above, str(file)))
    return merged | config


def _included(file: epath.Path, include: str, unreadable: Unreadable) -> epath.Path:
    harness = importlib.util.find_spec("lm_eval")
    folders = [file.parent] + [
        path(Path(folder) / "tasks")
        for folder in (harness.submodule_search_locations or () if harness else ())
    ]
    for folder in folders:
        if (folder / include).exists():
            return folder / include
    raise unreadable(
        str(file), f"include: {include} is not there (looked in {', '.join(map(str, folders))})",
        "Put the file there"
        + ("." if harness else ", or install lm-eval for the tasks that come with it."),
    )


def _of_split(
    task: epath.Path, data_files: object, split: str, unreadable: Unreadable
) -> list[str]:
    if not isinstance(data_files, dict):
        data_files = {"train": data_files}  # what the datasets library calls it then
    if split not in data_files:
        raise unreadable(
            str(task), f"dataset_kwargs.data_files has no {split!r}, the split that is evaluated",
            f"Splits there: {', '.join(map(str, data_files))}.",
        )
    entry = data_files[split]
    names = entry if isinstance(entry, list) else [entry]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise unreadable(
            str(task), f"dataset_kwargs.data_files has {wrong[0]!r}, which is no file's name",
            "Name a file, or a list of files.",
        )
    return names


def _resolve(task: epath.Path, entry: str, unreadable: Unreadable) -> list[epath.Path]:
    for place in (path(entry), task.parent / entry):
        if any(sign in entry for sign in "*?["):
            if found := sorted(place.parent.glob(place.name), key=str):
                return found
        elif place.exists():
            return [place]
    raise unreadable(
        str(task), f"its data file {entry!r} is neither in the current folder nor in {task.parent}",
        "Correct dataset_kwargs.data_files.",
    )


def _of_folder(
    task: epath.Path, source: str, split: str, unreadable: Unreadable
) -> list[epath.Path]:
    places = (path(source), task.parent / source)
    signs = SPLITS.get(split, (split,))
    for place in places:
        if place.is_file():
            return [place]
        names = sorted(place.iterdir(), key=str) if place.is_dir() else []
        if found := [file for file in names if any(sign in file.name.lower() for sign in signs)]:
            return found
    if any(place.is_dir() for place in places):
        raise unreadable(
            str(task), f"the folder dataset_path={source!r} has no file named after the split "
            f"{split!r}", "Name it in dataset_kwargs.data_files.",
        )
    raise unreadable(
        str(task), f"dataset_path={source!r} is no local file or folder, so it is fetched from the "
        "Hugging Face hub, and preparing reads no network",
        "Store the split as JSON lines, and set dataset_path: json and dataset_kwargs.data_files "
        f"{{{split}: FILE}} in a task file that includes this one.",
    )
