"""Everything that can fail before a run's first step, looked at without a device.

Cheap things first, then the real compile. All that fails is told at once, each with the flag to
change and the nearest value that works.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.core.paths import in_bucket, path
from jaxllm.data.manifest import FILE
from jaxllm.data.objectives import trains_on_rows
from jaxllm.plan.compile import Compiled, compile_for, devices_of, save_for
from jaxllm.plan.memory import memory, optimizer_bytes
from jaxllm.plan.plan import with_known_vocabulary
from jaxllm.plan.remat import POLICIES, find_remat
from jaxllm.plan.search import fits_slice, hbm, host_room, search, settled
from jaxllm.plan.slices import Slice, cloud_name, parse_slice
from jaxllm.plan.workload import Mesh, Workload, check_mesh, make_workload, resolve_mesh
from jaxllm.train.config import HEADROOM, Config

GB = 1e9
PARTS = (  # of a TrainState, for people
    ("params", "trained"), ("opt_state", "its optimizer"), ("frozen", "frozen"),
    ("reference", "the base that a loss compares with"), ("teacher", "the teacher"),
)


@dataclass
class Check:
    """What was found: facts in the order they were looked at, and everything that failed."""

    where: Slice
    config: Config  # with the vocabulary's size
    facts: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    compiled: Compiled | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The same for scripts: bytes and seconds."""
        step = None
        if self.compiled:
            step = {
                f.name: getattr(self.compiled, f.name)
                for f in dataclasses.fields(self.compiled) if f.name not in ("program", "traffic")
            }
            step["traffic"] = {
                kind: dataclasses.asdict(t) for kind, t in self.compiled.traffic.items()
            }
        return {
            "slice": self.where.name, "hbm_bytes": hbm(self.where), "facts": self.facts,
            "failures": self.failures, "compiled": step,
        }

    def look(self, what: str, examine: Callable[[], str]) -> None:
        """Notes what `examine` finds, or why it fails."""
        try:
            self.facts.append((what, examine()))
        except UserError as error:
            self.facts.append((what, "FAILS"))
            self.failures.append(str(error))


def check(
    config: Config, topology: str, *, preset_name: str = "", workdir: str = "",
    compiles: bool = True, save_to: str = "", say: Callable[[str], None] = lambda text: None,
) -> Check:
    """Looks at everything that a run of `config` on the slice of this name needs.

    Args:
      workdir: where the run would write; "": that is not looked at.
      compiles: compile the step; without it only what is cheap is looked at.
      save_to: folder to keep the compiled step in, for a run to load; "": it is not kept.
      say: told what takes long before it begins.

    Raises:
      UserError: there is no such slice, or no compiler for it.
    """
    where = parse_slice(topology, "--topology")
    model, notes = with_known_vocabulary(config, preset_name)
    config = dataclasses.replace(config, model=model)
    found, work = Check(where, config), make_workload(config)
    found.facts.append(("slice", _slice_facts(where)))
    for note in (*notes, *([where.note] if where.note else [])):
        found.facts.append(("note", note))
    meshes: list[Mesh] = []

    def mesh() -> str:
        meshes.append(resolve_mesh(config.mesh, where.devices, where.count))
        check_mesh(work, meshes[0])
        rows = work.rows / meshes[0].groups
        return (
            f"{meshes[0].words()}; {rows:g} rows of a step for each group of devices, "
            f"{work.rows / where.hosts:g} for each host"
        )

    found.look("mesh", mesh)
    for name, source in config.data.mixture.items():
        found.look(f"data {name}", lambda source=source: _data(config, source.path))
    if config.data.mixture and all(_is_here(config, s.path) for s in config.data.mixture.values()):
        found.look("tokenizer, objective", lambda: _training_data(config))
    found.look("checkpoints", lambda: _checkpoints(config, work, where, workdir))
    if found.passed:
        found.look("memory, reckoned", lambda: _reckoned(config, work, where, meshes[0]))
    if compiles and found.passed:
        say(f"compiling the step for {where.name}; minutes for a large model")
        found.look("compiled", lambda: _compiled(found, work, say))
    if save_to and found.compiled and found.passed:
        say(f"compiling once more, for {save_to}")
        found.look("compiled step", lambda: _saved(found, save_to))
    return found


def _slice_facts(where: Slice) -> str:
    hosts = _many(where.hosts, "host")
    names = f"{where.name}: {where.chips} chips, {where.devices} devices, {hosts}"
    cloud = cloud_name(where)
    return f"{names}; Cloud calls it {cloud}, quota is counted in chips" if cloud else names


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _is_here(config: Config, folder: str) -> bool:
    """Whether a source can be looked at: prepared data, or rows where the objective reads such."""
    if not folder or (path(folder) / FILE).exists():
        return bool(folder)
    return trains_on_rows(config.data.objective) and path(folder).exists()


def _data(config: Config, folder: str) -> str:
    """A source's manifest: there, of the tokenizer that is expected, long enough."""
    from jaxllm.data.manifest import read_manifest

    if not _is_here(config, folder):
        return f"{folder} is not on this machine: not looked at"
    if not (path(folder) / FILE).exists():
        return "rows, which are looked at with the tokenizer"
    manifest = read_manifest(folder)
    size = manifest.tokenizer.vocab_size
    if size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the {size} tokens of "
            f"{folder}. Set model.vocab_size to at least {size}."
        )
    tokens = manifest.splits["train"].tokens
    wanted = config.train.steps * config.data.global_batch_size * config.data.sequence_length
    return (
        f"{tokens:,} tokens, tokenizer {manifest.tokenizer.hash[:12]}; the run reads "
        f"{wanted:,}, {wanted / max(tokens, 1):.2g} times that in all"
    )


def _training_data(config: Config) -> str:
    from jaxllm.data import tokenizers
    from jaxllm.data.loader import TrainingData
    from jaxllm.train.origin import tokenizer_folder

    data = TrainingData(
        config.data, config.seed, config.model.decoder_start_id, tokenizer_folder(config)
    )
    if config.tokenizer.path and tokenizers.load(config.tokenizer.path).hash != data.tokenizer_hash:
        raise UserError(
            f"tokenizer.path={config.tokenizer.path!r} is another tokenizer than that of the data. "
            f"Prepare the data with --config.tokenizer.path={config.tokenizer.path}."
        )
    return "; ".join(["agree", *data.remarks, f"fingerprint of the data {data.fingerprint[:12]}"])


def _checkpoints(config: Config, work: Workload, where: Slice, workdir: str) -> str:
    """Bytes of a checkpoint and of all that are kept; room for them where that can be seen."""
    states = memory(work, Mesh(), POLICIES["full"], work.kernel(where.chip))
    one = states.parameters + optimizer_bytes(work, Mesh())  # on the host or not
    count = config.checkpoint.keep + config.checkpoint.keep_best + 1  # one is being written
    text = f"{one / GB:,.1f} GB each, {count * one / GB:,.1f} GB at most in the run directory"
    share = one / where.hosts
    if share > where.chip.host_ram / 2:
        raise UserError(
            f"A checkpoint's share of a host, {share / GB:.0f} GB, is copied into its memory of "
            f"{where.chip.host_ram / GB:.0f} GB while training goes on: use a slice with more "
            "hosts, or set optimizer.moment_dtype='bfloat16'."
        )
    if workdir and not in_bucket(workdir):
        folder = Path(workdir).absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < count * one:
            raise UserError(
                f"--workdir={workdir}: {free / GB:,.1f} GB are free, and checkpoint.keep="
                f"{config.checkpoint.keep} with checkpoint.keep_best={config.checkpoint.keep_best} "
                f"needs up to {count * one / GB:,.1f} GB. Keep fewer, or choose a bucket (gs://…)."
            )
        text += f"; {free / GB:,.0f} GB free"
    return text


def _reckoned(config: Config, work: Workload, where: Slice, mesh: Mesh) -> str:
    used = memory(work, mesh, settled(config.train.remat, work, where, mesh),
                  work.kernel(where.chip, mesh.context))
    verdict = "fits" if fits_slice(used, where) else "may not fit"
    host = f", {used.offloaded / GB:.1f} GB on the host" if used.offloaded else ""
    return f"{used.total / GB:.1f} of {hbm(where) / GB:.1f} GB a device{host}: {verdict}"


def _compiled(found: Check, work: Workload, say: Callable[[str], None]) -> str:
    """Compiles; the result goes into `found`."""
    config, where = found.config, found.where
    room = hbm(where)
    try:
        step = found.compiled = compile_for(config, where, devices_of(where), say)
    except RuntimeError as error:  # jax's, which this file does not import
        needed = re.search(r"\(([\d.]+)G\) exceeds", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        total = float(needed[1]) * 2**30 if needed else room
        raise UserError(_too_large(config, work, where, total)) from error
    if config.train.remat == "auto":
        found.facts.append(("train.remat='auto'", f"came to{_chosen(config, step)}"))
    for kind, traffic in step.traffic.items():
        found.facts.append((kind, f"{traffic.count:,} of {traffic.bytes / GB:,.2f} GB in all"))
    found.facts += [
        ("of the state", ", ".join(
            f"{what} {step.parts[part] / GB:.2f} GB" for part, what in PARTS if step.parts.get(part)
        )),
        ("state and batch", f"{step.arguments / GB:.2f} GB, {step.aliased / GB:.2f} GB reused"),
        ("temporaries", f"{step.temporaries / GB:.2f} GB"),
        ("on the host", f"{step.host / GB:.2f} GB a device"),
        ("generated code", f"{step.code / 1e6:.0f} MB, {step.kernels} kernel calls"),
    ]
    if step.total > room:
        raise UserError(_too_large(config, work, where, step.total))
    if step.host > host_room(where):
        raise UserError(_too_large_for_host(step, where))
    free = 1 - step.total / room
    warning = "" if free >= HEADROOM else f", less than the {HEADROOM:.0%} that are advised"
    return (
        f"remat {step.remat}: {step.total / GB:.2f} of {room / GB:.2f} GB a device, {free:.0%} "
        f"free{warning}; {step.seconds:.0f} s, {step.compiler}"
    )


def _chosen(config: Config, step: Compiled) -> str:
    """What `train.remat="auto"` changed, as flags for a run, each after a space."""
    every = (
        ("train.remat", config.train.remat, step.remat),
        ("train.grad_accumulation", config.train.grad_accumulation, step.accumulation),
        ("optimizer.placement", config.optimizer.placement, step.placement),
    )
    return "".join(f" --config.{name}={now}" for name, before, now in every if now != before)


def _saved(found: Check, folder: str) -> str:
    size = save_for(found.config, found.where, devices_of(found.where), folder, found.compiled)
    flags = f"--compiled={folder}{_chosen(found.config, found.compiled)}"
    return f"{size / 1e6:.0f} MB in {folder}; jaxllm train {flags} loads it"


def _too_large(config: Config, work: Workload, where: Slice, total: float) -> str:
    text = (
        f"The step needs {total / GB:.2f} GB a device and {where.chip.name} has "
        f"{hbm(where) / GB:.2f} GB."
    )
    better = [c for c in search(work, where) if c.memory.total < 0.9 * hbm(where)]
    if not better:
        return f"{text} Nothing that jaxllm plan knows fits {where.name}: use more chips."
    best = better[0]
    sizes = dataclasses.asdict(best.mesh)
    sizes["data"] //= config.mesh.dcn  # a plan counts slices as replicas
    axes = " ".join(
        f"--config.mesh.{axis}={size}" for axis, size in sizes.items()
        if size != getattr(config.mesh, axis)
    )
    micro = f" --config.train.grad_accumulation={best.accumulation}"
    return (
        f"{text} The fastest choice that is reckoned to fit: --config.train.remat="
        f"{best.remat.name} {axes}{micro if best.accumulation > 1 else ''} "
        f"({best.memory.total / GB:.1f} GB)."
    )


def _too_large_for_host(step: Compiled, where: Slice) -> str:
    fixes = ["set optimizer.placement='device'"] if step.placement == "host" else []
    if find_remat(step.remat).offloaded:
        fixes += ["raise train.grad_accumulation", "set train.remat='full'"]
    return (
        f"train.remat={step.remat!r} with optimizer.placement={step.placement!r} keeps "
        f"{step.host / GB:.2f} GB a device on its host, and a device's share of a host of "
        f"{where.chip.name} is {host_room(where) / GB:.1f} GB. To keep less there, "
        f"{' or '.join(fixes)}."
    )


def prepare_environment() -> None:
    """Makes jax a compiler only; before jax is imported."""
    from jaxllm.plan.compile import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
