"""`prepare`: phase by phase, each a set of tasks that leave whole files in a work folder.

The phases are the same for every runner and any number of workers, and so is the result. What was
done of them is found again by the same command, whatever ended it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from etils import epath

import jaxllm
from jaxllm.core.display import Display
from jaxllm.core.errors import Interrupted, UserError
from jaxllm.core.lock import Lock
from jaxllm.core.paths import atomic_write_text, in_bucket, make_directory, path
from jaxllm.core.rundir import RunDirectory
from jaxllm.data import tokenizers
from jaxllm.data.blocks import token_dtype
from jaxllm.data.manifest import (
    FILE,
    VERSION,
    Inputs,
    Manifest,
    Shard,
    Split,
    StageFlow,
    TokenizerEntry,
    read_manifest,
)
from jaxllm.data.prepare import same, split, tasks
from jaxllm.data.prepare.config import PrepareConfig, settings_of
from jaxllm.data.prepare.duplicates import groups
from jaxllm.data.prepare.flow import Sum, merge_rows
from jaxllm.data.prepare.outcome import (
    CLUSTERS,
    QUARANTINE,
    SAMPLES,
    check_splits,
    join,
    join_samples,
    lengths,
    sources,
)
from jaxllm.data.prepare.passes import passes
from jaxllm.data.prepare.readers import InputFile, check_beginnings, find_files
from jaxllm.data.prepare.runners.base import Runner
from jaxllm.data.prepare.runners.local import LocalRunner
from jaxllm.data.prepare.store import read_documents
from jaxllm.data.prepare.units import UNIT_BYTES, Unit, cut, number
from jaxllm.data.prepare.work import Result, Task, Work, whole_files
from jaxllm.data.prepare.writer import shard, shard_items
from jaxllm.data.tokenizers import Tokenizer

TOKENIZER = "tokenizer"  # the folder of the prepared data that holds its tokenizer
# What a killed process was writing beside the shards.
UNFINISHED = (f".{FILE}.*", ".*.jsonl.*", f"{TOKENIZER}/.*")
WORK = ".partial-"  # what the work folder's name begins with; the fingerprint follows


def prepare(
    config: PrepareConfig, output_dir: str | os.PathLike, display: Display,
    overwrite: bool = False, runner: Runner | None = None, unit_bytes: int = UNIT_BYTES,
) -> Manifest:
    """Reads, cleans, splits, tokenises and writes the corpus; gives what manifest.json says.

    A folder that was prepared with these settings before is left as it is; one in which the same
    preparation was interrupted is finished. Without a `runner` all is done in this process.

    Raises:
      UserError: bad input, a corpus too small, a folder that cannot be written, that holds a run,
        in which another process prepares, or that holds data prepared otherwise (unless
        `overwrite`).
      Interrupted: by Ctrl-C; the same call goes on.
    """
    folder = path(output_dir)
    _check_no_run(folder)
    files = find_files(config.input, display.message)
    units = cut(files, config.input, unit_bytes)
    tokenizer = tokenizers.load(config.tokenizer.path) if config.tokenizer.path else None
    runner = runner or LocalRunner()
    lock = None
    try:
        if (folder / FILE).exists() and not overwrite:
            manifest = read_manifest(folder)
            same.check(manifest, config, files, units, tokenizer, folder, display)
            _remove_work(folder)
            display.message(f"{folder} is prepared with these settings already: nothing to do.")
            return manifest
        check_beginnings(files, config.input)
        make_directory(folder)
        lock = Lock(folder, "preparing data")
        name = WORK + fingerprint(config, files, tokenizer, unit_bytes)
        _remove_old(folder, name)
        work = Work(str(folder / name), str(folder), config, unit_bytes)
        work.make_folders(len(passes(config)))
        manifest = Preparation(work, files, units, runner, display).run(tokenizer)
        path(work.folder).rmtree()
    except KeyboardInterrupt as error:
        raise Interrupted(
            "interrupted: what is done is kept, and the same command goes on from there."
        ) from error
    finally:
        runner.close()
        if lock:
            lock.release()
    return manifest


def fingerprint(
    config: PrepareConfig, files: Iterable[InputFile], tokenizer: Tokenizer | None, unit_bytes: int
) -> str:
    """What the work that is done depends on: another fingerprint, another work folder."""
    listing = [[file.name, file.bytes, _modified(file.path)] for file in files]
    content = [
        VERSION, jaxllm.__version__, settings_of(config), listing, unit_bytes,
        tokenizer.hash if tokenizer else "",
        same.beside_digest(config), same.versions(),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _check_no_run(folder: epath.Path) -> None:
    """Refuses a run directory, and the folders in it that are the run's own."""
    if RunDirectory(folder).exists():
        raise UserError(
            f"--workdir={folder} holds a run or a model (config.json or checkpoints): prepared "
            "data there would replace its tokenizer. Name another folder for the data, such as "
            f"--workdir=data/{folder.name}."
        )
    if not in_bucket(folder):
        folder = path(os.path.abspath(folder))
    for inside, outside in zip((folder, *folder.parents), folder.parents, strict=False):
        run = RunDirectory(outside)
        if inside in (run.checkpoints, run.tokenizer, run.tensorboard) and run.exists():
            raise UserError(
                f"--workdir={folder} lies in {inside.name} of the run {outside}, where only its "
                f"training writes. Name another folder, such as --workdir=data/{outside.name}."
            )


def _modified(file: epath.Path) -> int:
    """When a file was changed: on a local disk to the nanosecond."""
    return file.stat().mtime if in_bucket(file) else os.stat(file).st_mtime_ns


class Preparation:
    """One run through the phases."""

    def __init__(
        self, work: Work, files: Sequence[InputFile], units: Sequence[Unit], runner: Runner,
        display: Display,
    ):
        self._work, self._config, self._display = work, work.config, display
        self._files, self._units, self._runner = files, units, runner
        self._passes = passes(work.config)

    def run(self, tokenizer: Tokenizer | None) -> Manifest:
        """All phases; the manifest is written last."""
        inputs = self._survey()
        read = self._phase(
            "reading documents", "documents", tasks.documents,
            [(f"{index:06d}", unit) for index, unit in enumerate(self._units)],
            [unit.bytes for unit in self._units],
        )
        flow = list(merge_rows(unit["rows"] for unit in read))
        chunks = [chunk for unit in read for chunk in unit["chunks"]]
        self._work.write_chunks([chunk["name"] for chunk in chunks])
        for level in range(len(self._passes)):
            passed = self._pass(level, chunks)
            chunks = [chunk for one in passed for chunk in one["chunks"]]
            if self._passes[level].drops:
                flow += merge_rows(one["rows"] for one in passed)
        self._chunks, self._total = chunks, _sum(chunk["kept"] for chunk in chunks)
        rejected = _rejected(read)
        chosen = _sum(chunk["chosen"] for chunk in chunks)
        check_splits(
            self._config.split, self._total, chosen, flow, rejected, self._quarantined()
        )
        tokenizer = tokenizer or self._tokenizer(chosen)
        if self._config.output.append_eos and tokenizer.eos_id is None:
            raise UserError(
                f"output.append_eos=True, but the tokenizer ({tokenizer.kind}) has no end-of-text "
                "token. Set --config.output.append_eos=False."
            )
        tokenizer.save(self._work.tokenizer)
        splits, token_lengths = self._splits(tokenizer)
        return self._finish(inputs, rejected, flow, tokenizer, splits, token_lengths)

    def _survey(self) -> Inputs:
        """What the input is; from then on the units know the rows before them."""
        found = self._phase(
            "looking at the input", "survey", tasks.surveyed, self._units,
            [unit.bytes // 100 for unit in self._units],  # far quicker than anything else
        )
        self._units = number(self._units, [one["lines"] for one in found])
        digests = [one["sha256"] for one in found]
        return same.inputs_of(self._files, digests, same.beside_digest(self._config))

    def _pass(self, level: int, chunks: list[Result]) -> list[Result]:
        """The chunks after pass `level`, and what it did."""
        phase = f"level-{level + 1}"
        if not self._summary(phase).exists():
            self._passes[level].decide(self._work, level, self._phase)
        passed = self._phase(
            f"applying {self._passes[level].name}", phase, tasks.passed,
            [(level, index) for index in range(len(chunks))], [chunk["bytes"] for chunk in chunks],
        )
        self._work.forget(level)
        return passed

    def _tokenizer(self, chosen: Sum) -> Tokenizer:
        """The tokenizer, trained on the training split; as it is where that was done before."""
        if tokenizers.has_tokenizer(self._work.tokenizer):
            return tokenizers.load(self._work.tokenizer)
        config = self._config.tokenizer
        module = tokenizers.kind_module(config.kind)
        special = {"mask": config.mask, "sentinels": config.sentinels}
        if config.kind == "byte":
            return module.ByteTokenizer(**special)
        training = self._total.characters - chosen.characters
        if self._config.split.by == "position":
            training = self._cut
        share = config.train_characters / training
        found = self._phase(
            "choosing text for the tokenizer", "training", tasks.training,
            [(*item, share) for item in self._placed()], self._sizes,
        )
        with self._display.phase(f"training the {config.kind} tokenizer"):
            if config.kind == "char":
                return module.train(
                    (one["characters"] for one in found),
                    end_of_text=self._config.output.append_eos, **special,
                )
            texts = (
                document.text for chunk in self._chunks
                for document in read_documents(self._work.training(chunk["name"]))
            )
            return module.train(
                texts, vocab_size=config.vocab_size, model_type=config.model_type,
                character_coverage=config.character_coverage, user_symbols=config.user_symbols,
                **special,
            )

    def _splits(self, tokenizer: Tokenizer) -> tuple[dict[str, Split], dict[str, int]]:
        """Writes the token streams and their shards; gives documents by their tokens, too."""
        counts = self._phase(
            "writing tokens", "tokens", tasks.tokens,
            [(*item, tokenizer.hash) for item in self._placed()], self._sizes,
        )
        output, splits = self._config.output, {}
        for name in (split.TRAIN, split.VALIDATION):
            amounts = [(chunk["name"], count[name][3])
                       for chunk, count in zip(self._chunks, counts, strict=True)]
            items = shard_items(
                name, amounts, token_dtype(tokenizer.vocab_size), output.block_tokens,
                output.tokens_per_shard,
            )
            shards = self._phase(f"writing shards ({name})", f"shards-{name}", shard, items)
            totals = [sum(count[name][index] for count in counts) for index in range(4)]
            splits[name] = Split(*totals, tuple(Shard(**one) for one in shards))
        return splits, lengths(counts)

    def _quarantined(self) -> list[epath.Path]:
        """The files of the records that could not be read."""
        return [self._work.rejected(f"{index:06d}") for index in range(len(self._units))]

    def _finish(
        self, inputs: Inputs, rejected: dict[str, int], flow: list[StageFlow],
        tokenizer: Tokenizer, splits: dict[str, Split], token_lengths: dict[str, int],
    ) -> Manifest:
        """Writes what lies beside the shards, and the manifest last."""
        folder, work = path(self._work.output), path(self._work.folder)
        tokenizer.save(folder / TOKENIZER)
        if rejected:
            join(folder / QUARANTINE, self._quarantined())
        if clusters := whole_files(work / "clusters"):
            join(folder / CLUSTERS, clusters)
        join_samples(folder / SAMPLES, work / "samples")
        manifest = Manifest(
            VERSION, jaxllm.__version__, settings_of(self._config), inputs, rejected, tuple(flow),
            sources(self._chunks), lengths(self._chunks), token_lengths,
            groups.by_stage(whole_files(work / "groups")),
            TokenizerEntry(tokenizer.kind, tokenizer.hash, tokenizer.vocab_size),
            self._config.output.block_tokens, splits,
        )
        manifest.write(folder)
        return manifest

    @property
    def _cut(self) -> int:
        """The character of the corpus at which a split by position cuts it."""
        return split.cut_place(self._total.characters, self._config.split.validation_share)

    @property
    def _sizes(self) -> list[int]:
        return [chunk["bytes"] for chunk in self._chunks]

    def _placed(self) -> Iterator[tuple[int, str, int, int]]:
        """(level, chunk, the characters before it, where the corpus is cut) of each chunk."""
        place = 0
        for chunk in self._chunks:
            yield len(self._passes), chunk["name"], place, self._cut
            place += chunk["kept"][1]

    def _phase(
        self, title: str, phase: str, function: Callable[[Work, Any], Result],
        items: Sequence[Any], sizes: Sequence[int] | None = None,
    ) -> list[Result]:
        """The results of a phase, of which some or all may have been there before."""
        summary = self._summary(phase)
        if summary.exists():
            return json.loads(summary.read_text())
        total = sum(unit.bytes for unit in self._units)
        sizes = sizes or [total // max(len(items), 1)] * len(items)
        todo = [Task(self._work, phase, index, function, item, size)
                for index, (item, size) in enumerate(zip(items, sizes, strict=True))]
        marks = make_directory(path(self._work.folder) / "done" / phase)
        there = {file.name for file in whole_files(marks)}
        pending = [task for task in todo if task.marker.name not in there]
        if pending:
            self._runner.run(title, pending, len(todo) - len(pending), self._display)
        results = [json.loads(task.marker.read_text()) for task in todo]
        atomic_write_text(summary, json.dumps(results))
        if results:
            marks.rmtree()
        return results

    def _summary(self, phase: str) -> epath.Path:
        return path(self._work.folder) / f"{phase}.json"


def _sum(counts: Iterable[list[int]]) -> Sum:
    total = Sum()
    for one in counts:
        total.merge(one)
    return total


def _rejected(read: Iterable[Result]) -> dict[str, int]:
    found: dict[str, int] = {}
    for unit in read:
        for reason, count in unit["rejected"].items():
            found[reason] = found.get(reason, 0) + count
    return dict(sorted(found.items()))


def _remove_old(folder: epath.Path, keep: str) -> None:
    """Takes the manifest away first: from here on the folder counts as not prepared.

    The shards of an interrupted preparation stay where its work folder, `keep`, still knows them.
    """
    (folder / FILE).unlink(missing_ok=True)
    for pattern in UNFINISHED:
        for old in folder.glob(pattern):
            old.unlink()
    _remove_work(folder, keep)
    if not (folder / keep).exists():
        for name in (split.TRAIN, split.VALIDATION):
            for old in folder.glob(f"{name}-*-of-*.array_record"):
                old.unlink()
        for name in (QUARANTINE, CLUSTERS, SAMPLES):
            (folder / name).unlink(missing_ok=True)


def _remove_work(folder: epath.Path, keep: str = "") -> None:
    """Removes what other preparations left unfinished."""
    for old in folder.glob(f"{WORK}*"):
        if old.name != keep:
            old.rmtree()
