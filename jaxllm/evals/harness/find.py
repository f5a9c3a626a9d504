"""Finds tasks of lm-evaluation-harness by name, and says at once which of them need the network.

Tasks come from jaxllm/evals/tasks, from folders of the user's own task files, and from those that
come with lm-eval. A packaged task reads its data from the Hugging Face hub; it is mirrored onto
local files by a folder TASK_DATA/TASK with a file for each split (test.jsonl, validation.csv, …):
its prompts, filters and metrics stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from jaxllm.core.errors import UserError, unknown
from jaxllm.core.paths import path
from jaxllm.evals.extras import need

OWN = Path(__file__).parent.parent / "tasks"
BUILDERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".txt": "text",
}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def find_tasks(
    names: Sequence[str], include: Sequence[str] = (), task_data: str = "", download: bool = False
):
    """lm-eval's TaskManager, in which `names` can be loaded.

    Raises:
      UserError: lm-eval is not installed, no such folder or task, or a task whose data are not
        local although `download` is not set.
    """
    library = need("lm_eval.tasks", "--tasks", "lm-eval")
    for folder in (*include, *([task_data] if task_data else [])):
        if not path(folder).is_dir():
            raise UserError(f"There is no folder {folder}: name one for --include or --task_data.")
    folders = [str(OWN), *map(str, include)]
    metadata = {"task_data": task_data}
    manager = library.TaskManager(
        include_path=folders, include_defaults=False, metadata=metadata
    )
    if not all(name in manager.task_index for name in names):  # thousands of files: seconds
        manager = library.TaskManager(include_path=folders, metadata=metadata)
    for name in names:
        if name not in manager.task_index:
            raise unknown("--tasks", name, manager.all_tasks)
    load_yaml = need("lm_eval.tasks._yaml_loader", "--tasks", "lm-eval").load_yaml
    remote = {}
    for name, entry in list(_leaves(names, manager.task_index)):
        if mirror := _mirror(name, entry.cfg, task_data):
            config = {**load_yaml(entry.yaml_path), **mirror}
            manager.task_index[name] = dataclasses.replace(entry, yaml_path=None, cfg=config)
        elif source := _remote(entry.cfg):
            remote[name] = source
    if remote and not download:
        raise _needs_network(remote, task_data)
    return manager


def _leaves(names: Sequence[str], index: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every task that a name stands for: its own, or those of a tag or group."""
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop(0)
        entry = index.get(name)
        if name in seen or entry is None:
            continue
        seen.add(name)
        below = list(entry.tags) if entry.kind.name == "TAG" else []
        if entry.kind.name == "GROUP":
            below = [_name(each) for each in entry.cfg.get("task") or []]
        elif entry.kind.name == "TASK":
            yield name, entry
        waiting += sorted(filter(None, below))


def _name(member: str | Mapping[str, Any]) -> str:
    """The name of a group's member, which may have settings."""
    if isinstance(member, str):
        return member
    name = member.get("group") or member.get("task")
    return name if isinstance(name, str) else ""


def _mirror(name: str, config: Mapping[str, Any], task_data: str) -> dict[str, Any]:
    """The settings that read a task from its folder in `task_data`; {} where there is none."""
    folder = path(task_data) / name if task_data else None
    if folder is None or not folder.is_dir():
        return {}
    files = {file.stem: file for file in folder.iterdir() if file.suffix in BUILDERS}
    kinds = {BUILDERS[file.suffix] for file in files.values()}
    wanted = config.get("test_split") or config.get("validation_split")
    if wanted not in files or len(kinds) != 1:
        raise UserError(
            f"--task_data={task_data}: the folder {folder} has {_listed(files.values())}, and the "
            f"task is evaluated on the split {wanted!r}: put {wanted}.jsonl there, and files of "
            "one format only."
        )
    kwargs: dict[str, Any] = {"data_files": {key: str(f) for key, f in files.items()}}
    if any(file.suffix == ".tsv" for file in files.values()):
        kwargs["delimiter"] = "\t"
    absent = {key: None for key in SPLITS if config.get(key) and config[key] not in files}
    return {"dataset_path": kinds.pop(), "dataset_name": None, "dataset_kwargs": kwargs, **absent}


def _remote(config: Mapping[str, Any]) -> str:
    """Where on the hub a task's data are, "" where they are local."""
    source = config.get("dataset_path")
    if not source or config.get("custom_dataset"):
        return ""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if source in BUILDERS.values() and files:
        listed = files.values() if isinstance(files, Mapping) else [files]
        flat = [f for each in listed for f in ([each] if isinstance(each, str) else each)]
        return next((f for f in flat if "://" in f and not f.startswith("gs:")), "")
    return "" if path(source).exists() else str(source)


def _needs_network(remote: Mapping[str, str], task_data: str) -> UserError:
    name, source = next(iter(remote.items()))
    others = f" (so do {len(remote) - 1} others)" if len(remote) > 1 else ""
    return UserError(
        f"--tasks: {name} reads {source!r} from the Hugging Face hub, which needs the "
        f"network{others}. Put the splits into {task_data or 'DIR'}/{name}/ as JSON lines "
        "(test.jsonl or validation.jsonl, and train.jsonl for few-shot examples) and name the "
        f"folder with --task_data={task_data or 'DIR'}, or allow the download with --download."
    )


def _listed(files: Iterable[epath.Path]) -> str:
    return ", ".join(sorted(file.name for file in files)) or "no data files"
