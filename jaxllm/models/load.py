"""`--model=`: from a run directory, a checkpoint or a Hugging Face folder to a model in memory.

BASE+ADAPTER[:WEIGHT][+ADAPTER…] is a base with adapters merged into it: runs that trained one, or
folders of PEFT.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from functools import partial

import jax

from jaxllm.core.checkpoint import Checkpoints, Damaged, Meta
from jaxllm.core.config import resolve
from jaxllm.core.errors import UserError
from jaxllm.core.paths import path
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.config import DataConfig
from jaxllm.models import fingerprint
from jaxllm.models.adapters.adapter import Adapter
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.models.adapters.leaves import (
    CheckpointLeaves,
    Leaves,
    MergedLeaves,
    TunedLeaves,
    read_arrays,
)
from jaxllm.models.adapters.peft import PeftFolder, is_peft_folder
from jaxllm.models.adapters.start import adapted_params
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.importer import (
    flatten_arrays,
    is_hf_folder,
    nested,
)
from jaxllm.models.hf.mapping import flatten
from jaxllm.models.hf.safetensors import local
from jaxllm.models.parameters import check_divisible
from jaxllm.models.saved import Model, SavedFolder, SavedModel, abstract_params
from jaxllm.models.transformer import Transformer
from jaxllm.nn.compute import Compute, make_compute
from jaxllm.nn.module import abstract


@dataclasses.dataclass(frozen=True)
class SavedRun(SavedModel):
    """The model of a run directory."""

    directory: RunDirectory
    step: int | None  # None: the newest

    @property
    def run(self) -> RunDirectory:
        """See SavedModel."""
        return self.directory

    @property
    def config(self) -> ModelConfig:
        """See SavedModel."""
        return resolve(ModelConfig, self.run.read_section("model"), "model")

    @property
    def data(self) -> DataConfig:
        """See SavedModel."""
        return resolve(DataConfig, self.run.read_section("data"), "data")

    def steps(self, checkpoints: Checkpoints) -> list[int]:
        """The steps of which one is meant: that one, or all.

        Raises:
          UserError: there is none, or not that one.
        """
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"model={self.name!r}: {self.run.root} has no checkpoint yet.")
        if self.step is None or self.step in steps:
            return steps if self.step is None else [self.step]
        near = sorted(steps, key=lambda s: abs(s - self.step))[:3]
        nearest = f"; nearest: {', '.join(map(str, near))}" if len(steps) > len(near) else ""
        raise UserError(
            f"model={self.name!r}: there is no checkpoint of step {self.step}. Steps there: "
            f"{', '.join(map(str, steps))}{nearest}."
        )

    @property
    def fingerprint(self) -> str:
        """See SavedModel."""
        return fingerprint.of_checkpoint(self.newest()[1])

    def named_step(self, wanted: str) -> str:
        """See SavedModel: all steps are looked through, whichever is named."""
        checkpoints = Checkpoints(self.run.checkpoints)
        for step in reversed(checkpoints.steps()):
            with contextlib.suppress(Damaged):
                if fingerprint.of_checkpoint(checkpoints.read_meta(step)) == wanted:
                    return f"{self.run.root}@{step}"
        return ""

    def is_whole(self) -> bool:
        """Whether the checkpoint holds the whole model, and no adapter."""
        if self.config.adapter.method == "lora":
            return False
        return not self._missing(self.newest()[1], self._names(make_compute()))

    def newest(self) -> tuple[int, Meta]:
        """The step that is meant, or the newest whose meta can be read, and that.

        Raises:
          UserError: there is none.
        """
        checkpoints = Checkpoints(self.run.checkpoints)
        steps = self.steps(checkpoints)
        for step in reversed(steps):
            try:
                return step, checkpoints.read_meta(step)
            except Damaged as damage:
                if step == steps[0]:
                    raise self._damaged(damage, steps) from damage
        raise AssertionError("steps() gives at least one")

    def base(self) -> SavedModel:
        """The model that what was trained is for, where that is not the whole model.

        Raises:
          UserError: it is not there, or it is another one now.
        """
        name = self.run.read_section("train").get("init_from", "")
        try:
            base = find_model(name)
        except UserError as error:
            raise UserError(
                f"model={self.name!r} holds what was trained and not its base, train.init_from="
                f"{name!r}: {error}"
            ) from error
        self.check_base(base)
        return base

    def check_base(self, base: SavedModel) -> None:
        """Refuses another base than the one that the run was trained on.

        Raises:
          UserError: its parameters are others.
        """
        wanted = self.newest()[1].get("base")
        if wanted and wanted != base.fingerprint:
            there = base.named_step(wanted)
            fix = f"Write {there}+{self.run.root}." if there else (
                "Name the base as it was when the run began, which was train.init_from="
                f"{self.run.read_section('train').get('init_from', '')!r}."
            )
            raise UserError(
                f"model={self.name!r} was trained on another base than {base.name!r} (fingerprint "
                f"{wanted[:12]}, not {base.fingerprint[:12]}): what it learned means nothing "
                f"there. {fix}"
            )

    def trained(self, compute: Compute) -> Adapter:
        """What the run trained.

        Raises:
          UserError: the checkpoint is damaged.
        """
        config, (step, meta) = self.config, self.newest()
        _, specs = abstract(partial(Transformer, config=config, compute=compute))
        target = flatten_arrays(abstract_params(specs, compute))
        there = [name for name in target if f"params.{name}" in meta["arrays"]]
        checkpoints = Checkpoints(self.run.checkpoints)
        leaves = read_arrays(self.name, checkpoints, step, {n: target[n] for n in there})
        checkpoints.close()
        return Adapter(config, compute, leaves)

    def leaves(self, compute: Compute, warn: Callable[[str], None]) -> Leaves:
        """See SavedModel."""
        config = self.config
        if self.is_whole():
            step, _ = self.newest()
            return CheckpointLeaves(self.name, self.run.checkpoints, step, config, compute)
        base = self.base().leaves(compute, warn)
        adapters = [(self.trained(compute), 1.0)]
        return MergedLeaves(base, adapters, config, compute, quantised=True)

    def parts(
        self, config: ModelConfig, compute: Compute, warn: Callable[[str], None]
    ) -> tuple[Leaves, Adapter | None]:
        """See SavedModel."""
        if self.config.adapter.method == "lora":
            adapter = self.trained(compute)
            if adapter.fits(config):
                return self.base().leaves(compute, warn), adapter
        return self.leaves(compute, warn), None

    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """See SavedModel."""
        config = self.config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
        names = flatten_arrays(abstract_params(specs, compute))
        checkpoints = Checkpoints(self.run.checkpoints)
        steps = self.steps(checkpoints)
        for step in reversed(steps):
            try:
                missing = self._missing(checkpoints.read_meta(step), names)
                target = {n: like for n, like in names.items() if n not in missing}
                found = checkpoints.restore(step, {"params": nested(target)}, cast=True)
                break
            except Damaged as damage:
                if step == steps[0]:
                    raise self._damaged(damage, steps) from damage
                warn(f"{damage} The checkpoint before it is used.")
        checkpoints.close()
        params = found["params"]
        if missing:
            base, _ = self.base().parts(config, compute, warn)
            given = flatten_arrays(params)
            params = adapted_params(base, structure, specs, jax.random.key(0), given)
            base.close()
        return Model(config, compute, structure, params, step)

    def _missing(self, meta: Meta, names: Iterable[str]) -> set[str]:
        """The parameters that the checkpoint leaves to the base: none if all were trained."""
        if self.config.adapter == AdapterConfig():
            return set()
        return {name for name in names if f"params.{name}" not in meta["arrays"]}

    def _names(self, compute: Compute) -> list[str]:
        make = partial(Transformer, config=self.config, compute=compute)
        return list(flatten(abstract(make)[1]))

    def _damaged(self, damage: Damaged, steps: list[int]) -> UserError:
        if self.step is not None:
            return UserError(f"model={self.name!r}: {damage} Choose another step.")
        return UserError(
            f"Every checkpoint in {self.run.checkpoints} is damaged (steps "
            f"{', '.join(map(str, steps))}). Restore a copy of the folder, or train again."
        )


@dataclasses.dataclass(frozen=True)
class SavedSum(SavedModel):
    """A base with adapters merged into it, or moved towards runs that tuned it whole."""

    base: SavedModel
    adapters: tuple[tuple[SavedRun | PeftFolder, float], ...]  # each with its weight

    @property
    def run(self) -> None:
        """See SavedModel."""
        return None

    @functools.cached_property
    def config(self) -> ModelConfig:
        """See SavedModel."""
        base = dataclasses.replace(self.base.config, adapter=AdapterConfig())
        heads = [
            one.config.head if isinstance(one, SavedRun) else one.head(base)
            for one, _ in self.adapters
        ]
        new = (head for head in heads if head != base.head)
        return dataclasses.replace(base, head=next(new, base.head))

    @property
    def data(self) -> DataConfig:
        """See SavedModel."""
        return self.base.data

    @functools.cached_property
    def fingerprint(self) -> str:
        """See SavedModel."""
        parts = [(adapter.fingerprint, weight) for adapter, weight in self.adapters]
        return fingerprint.of_values([self.base.fingerprint, parts])

    def leaves(self, compute: Compute, warn: Callable[[str], None]) -> Leaves:
        """See SavedModel."""
        base = self.base.leaves(compute, warn)
        whole = [(one.leaves(compute, warn), w) for one, w in self.adapters if _is_whole(one)]
        if whole:
            base = TunedLeaves(base, whole, self.config, compute)
        adapters = [
            (self._trained(one, compute), w) for one, w in self.adapters if not _is_whole(one)
        ]
        return MergedLeaves(base, adapters, self.config, compute) if adapters else base

    def parts(
        self, config: ModelConfig, compute: Compute, warn: Callable[[str], None]
    ) -> tuple[Leaves, Adapter | None]:
        """See SavedModel."""
        (first, weight), *more = self.adapters
        if not more and weight == 1.0 and not _is_whole(first):
            adapter = self._trained(first, compute)
            if adapter.fits(config):
                return self.base.leaves(compute, warn), adapter
        return self.leaves(compute, warn), None

    def load(self, compute: Compute, warn: Callable[[str], None]) -> Model:
        """See SavedModel."""
        config = self.config
        structure, specs = abstract(partial(Transformer, config=config, compute=compute))
        check_divisible(specs, compute.sharding)
        leaves = self.leaves(compute, warn)
        params = adapted_params(leaves, structure, specs, jax.random.key(0))
        leaves.close()
        return Model(config, compute, structure, params, 0)

    def _trained(self, adapter: SavedRun | PeftFolder, compute: Compute) -> Adapter:
        if isinstance(adapter, SavedRun):
            adapter.check_base(self.base)
            return adapter.trained(compute)
        adapter.check_base(self.base.fingerprint, self.base.name)
        return adapter.trained(self.base.config, compute)


def find_model(name: str) -> SavedRun | SavedFolder | SavedSum:
    """The model of a run directory (`RUN` or `RUN@STEP`), a checkpoint (`RUN/checkpoints/STEP`) or
    a Hugging Face folder, with the adapters that are named after it.

    Raises:
      UserError: there is no such model; what is there is listed.
    """
    first, *others = _split_adapters(name)
    if others:
        base = find_model(first)
        return SavedSum(name, base.tokenizer, base, tuple(map(_find_adapter, others)))
    root, step = _split_step(name)
    location = path(root)
    if location.parent.name == "checkpoints" and location.name.isdigit():
        step, location = location.name, location.parent.parent
    if not location.exists():
        raise UserError(f"model={name!r}: there is no {location}.{_runs_near(location)}")
    if is_peft_folder(location):
        raise UserError(
            f"model={name!r}: {location} is an adapter of PEFT, which needs its base: name both, "
            f"BASE+{root}."
        )
    if is_hf_folder(location):
        if step:
            raise UserError(
                f"model={name!r}: {location} is a Hugging Face folder, which has no steps. Leave "
                f"@{step} out."
            )
        return SavedFolder(name, local(location), local(location))
    run = RunDirectory(location)
    saved = SavedRun(name, run.tokenizer, run, int(step) if step else None)
    if not run.config.exists() and any(location.glob("*.safetensors")):
        raise UserError(
            f"model={name!r}: {location} has tensors but no config.json, which says what they are: "
            "download it too."
        )
    if run.is_foreign():
        raise UserError(
            f"model={name!r}: {run.config} has no model_type, which says what the model of a "
            "Hugging Face folder is (nor a section `config`, as a run's has). Download it again."
        )
    saved.run.read_config()
    return saved


def _split_adapters(name: str) -> list[str]:
    """BASE and the adapters after it; a path that exists is left whole, '+' and all."""
    parts = name.split("+")
    for count in range(len(parts), 0, -1):
        base = "+".join(parts[:count])
        if path(_split_step(base)[0] or ".").exists():
            return [base, *parts[count:]]
    return parts


def _find_adapter(name: str) -> tuple[SavedRun | PeftFolder, float]:
    """An adapter and its weight, of ADAPTER[:WEIGHT]."""
    root, colon, text = name.rpartition(":")
    weight = 1.0
    if colon and not path(name).exists():
        with contextlib.suppress(ValueError):
            name, weight = root, float(text)
    if is_peft_folder(path(name)):
        return PeftFolder(local(name)), weight
    saved = find_model(name)
    if not isinstance(saved, SavedRun):
        raise UserError(
            f"model={name!r} is no adapter: after '+' goes a run that tuned the base (an adapter, "
            "or all of it), or a folder with adapter_config.json."
        )
    return saved, weight


def _is_whole(adapter: SavedRun | PeftFolder) -> bool:
    """Whether it is a run that tuned the whole model."""
    return isinstance(adapter, SavedRun) and adapter.config.adapter.method != "lora"


def _split_step(name: str) -> tuple[str, str]:
    """The path and the step ("" for the newest) of RUN@STEP, where RUN may itself have an '@'."""
    root, at, step = name.rpartition("@")
    if not at or path(name).exists():
        return name, ""
    if step.isdecimal():
        return root, step
    if path(root).exists() and "/" not in step:
        raise UserError(f"model={name!r}: the step after '@' must be a number.")
    return name, ""


def _runs_near(location) -> str:
    parent = location.parent
    if not parent.exists():
        return ""
    runs = sorted(p.name for p in parent.iterdir() if (p / "config.json").exists())
    return f" Runs in {parent}: {', '.join(runs[:10])}." if runs else ""
