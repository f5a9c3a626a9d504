"""The plan of a run: what `jaxllm plan` prints, `plan.json` holds and the report draws."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, make_directory, path
from jaxllm.data.manifest import FILE, read_manifest
from jaxllm.models.config import ModelConfig, preset
from jaxllm.plan import scaling
from jaxllm.plan.chips import CHIPS
from jaxllm.plan.flops import model_flops, step_flops
from jaxllm.plan.prices import TERMS, Prices, read_prices
from jaxllm.plan.remat import POLICIES, find_remat
from jaxllm.plan.roofline import ASSUMPTIONS, EFFICIENCY
from jaxllm.plan.scaling import Optimum
from jaxllm.plan.search import Candidate, evaluate, fits_slice, hbm, search, settled, smallest
from jaxllm.plan.slices import Slice, parse_slice
from jaxllm.plan.workload import Workload, check_mesh, make_workload, resolve_mesh
from jaxllm.train.config import HEADROOM, Config

RANKED = 8  # rows of the table of meshes
ASSUMED_VOCABULARY = 32_000  # where neither recipe, data nor preset say
FORMAT = "jaxllm plan 1"


@dataclass(frozen=True)
class Budget:
    """How much training is to be afforded; one of the three at most is above 0."""

    flops: float = 0.0
    chip_days: float = 0.0
    money: float = 0.0

    def given(self) -> bool:
        """Whether there is one."""
        return any((self.flops, self.chip_days, self.money))


@dataclass(frozen=True)
class Size:
    """What the model and the training are, whatever they run on."""

    parameters: int
    non_embedding: int  # without the tables that are looked up
    active: int  # that a token is computed with: all, in a dense model
    flops_per_token: float  # forward and backward, causal attention once
    steps: float
    tokens_per_step: int
    tokens: float  # of the whole run
    recomputed_share: float  # of the step's FLOPs, by the remat policy

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return self.flops_per_token * self.tokens

    @property
    def petaflop_days(self) -> float:
        """The same in petaFLOP/s-days."""
        return self.flops / scaling.PETAFLOP_DAY


@dataclass(frozen=True)
class Machine:
    """The recipe on its slice."""

    chosen: Candidate  # the recipe's mesh and remat policy
    fits: bool
    hbm: float  # bytes of a device
    kernel: str
    days: float
    costs: dict[str, float | None]  # by terms
    prices: Prices
    policies: list[Candidate]  # every remat policy on the recipe's mesh
    ranked: list[Candidate]  # the fastest of all meshes and policies that fit
    found: int  # how many fit
    smallest: Candidate | None


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the run."""

    size: Size
    budget: float  # FLOPs that the advice is for: the run's own, or what the budget buys
    advice: list[Optimum]
    loss: float  # predicted for the run as it is, by scaling.ADVISED; nan for no decoder
    machine: Machine | None  # None without a slice
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What plan.json holds: numbers in SI units, bytes and seconds."""
        size = dataclasses.asdict(self.size)
        return {
            "format": FORMAT,
            "size": {**size, "flops": self.size.flops, "petaflop_days": self.size.petaflop_days},
            "budget_flops": self.budget,
            "advice": [dataclasses.asdict(one) for one in self.advice],
            "loss": self.loss if self.loss == self.loss else None,
            "machine": None if self.machine is None else _machine_dict(self.machine),
            "notes": self.notes,
        }

    def write(self, file: str) -> None:
        """Writes plan.json.

        Raises:
          UserError: the file cannot be written.
        """
        make_directory(path(file).parent)
        atomic_write_text(file, json.dumps(self.to_dict(), indent=1) + "\n")


def make_plan(
    config: Config, where: str = "", *, tokens: float = 0.0, budget: Budget | None = None,
    prices: str = "", terms: str = "on_demand", preset_name: str = "", field: str = "--topology",
) -> Plan:
    """The plan of a resolved configuration, on the slice of this name or on none.

    Args:
      tokens: of the whole run, instead of train.steps times the batch.
      budget: what the advice is to be for, instead of the run's own FLOPs.
      prices: a price table; "": ours. `terms` is one of prices.TERMS.
      preset_name: the recipe's model.preset, whose vocabulary counts where nothing else is known.
      field: what the slice's name was given as, for the errors.

    Raises:
      UserError: an unknown slice, a mesh that does not fit it or the model, or bad numbers.
    """
    budget = budget or Budget()
    if tokens < 0:
        raise UserError(f"--tokens={tokens:g} must be above 0.")
    if terms not in TERMS:
        raise UserError(f"--terms={terms!r} is unknown. Choose one of: {', '.join(TERMS)}.")
    model, notes = with_known_vocabulary(config, preset_name)
    config = dataclasses.replace(config, model=model)
    work = make_workload(config)
    machine = None
    if where:
        place = parse_slice(where, field)
        notes += [place.note] if place.note else []
        machine = _machine(config, work, place, read_prices(prices), tokens)
        notes += [text.format(**vars(EFFICIENCY)) for text in ASSUMPTIONS]
    size = _size(work, tokens, machine, config.train.remat)
    flops = _budget(budget, machine, terms) if budget.given() else size.flops
    loss = float("nan")
    if model.architecture == "decoder":
        loss = scaling.BESIROGLU.loss(size.parameters, size.tokens)
    return Plan(size, flops, scaling.optima(flops), loss, machine, notes)


def read_plan(file: str) -> dict[str, Any]:
    """The content of a plan.json.

    Raises:
      UserError: there is none, or it is something else.
    """
    source = path(file)
    try:
        content = json.loads(source.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no plan: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file} is no plan of this version. Write it with jaxllm plan --output.")
    return content


def _size(
    work: Workload, tokens: float, machine: Machine | None, remat: str
) -> Size:
    chip, policy = CHIPS["v5p"], find_remat("full" if remat == "auto" else remat)
    if machine:
        chip, policy = machine.chosen.where.chip, machine.chosen.remat
    shape, lengths = work.shape, work.lengths
    parts = step_flops(shape, lengths, policy, work.kernel(chip))
    steps = tokens / work.tokens if tokens else work.steps
    parameters = shape.parameters
    return Size(
        parameters=parameters, non_embedding=parameters - shape.embedding_parameters,
        active=parameters, flops_per_token=model_flops(shape, lengths) / lengths.total,
        steps=steps, tokens_per_step=work.tokens, tokens=steps * work.tokens,
        recomputed_share=parts["recomputed"].total / sum(p.total for p in parts.values()),
    )


def _machine(
    config: Config, work: Workload, where: Slice, prices: Prices, tokens: float
) -> Machine:
    mesh = resolve_mesh(config.mesh, where.devices, where.count)
    check_mesh(work, mesh)
    chosen = evaluate(work, where, mesh, settled(config.train.remat, work, where, mesh))
    ranked = search(work, where)
    policies = [evaluate(work, where, mesh, remat) for remat in POLICIES.values()]
    steps = tokens / work.tokens if tokens else work.steps
    days = steps * chosen.step.total / 86_400
    hours = days * 24 * where.chips
    return Machine(
        chosen=chosen, fits=fits_slice(chosen.memory, where), hbm=hbm(where),
        kernel=work.kernel(where.chip, mesh.context).name, days=days,
        costs={
            term: None if price is None else price * hours
            for term, price in prices.of(where.chip.name).items()
        },
        prices=prices, policies=sorted(policies, key=lambda one: one.step.total),
        ranked=ranked[:RANKED], found=len(ranked), smallest=smallest(work, where),
    )


def _budget(budget: Budget, machine: Machine | None, terms: str) -> float:
    if machine is None:
        if not budget.flops:
            raise UserError(
                "A budget in chip-days or money needs the chips that it is spent on: add "
                "--topology."
            )
        return scaling.budget_flops(flops=budget.flops)
    chip = machine.chosen.where.chip
    return scaling.budget_flops(
        flops=budget.flops, chip_days=budget.chip_days, money=budget.money,
        price_per_chip_hour=machine.prices.of(chip.name)[terms],
        chip_peak=chip.peak_flops, mfu=machine.chosen.step.mfu,
    )


def with_known_vocabulary(config: Config, preset_name: str) -> tuple[ModelConfig, list[str]]:
    """The model with its vocabulary's size, and how it was found where the recipe leaves it open.
    """
    model = config.model
    if model.vocab_size:
        return model, []
    size, source = ASSUMED_VOCABULARY, "assumed"
    published = preset(preset_name).vocab_size if preset_name else 0
    if published:
        size, source = published, f"that of the preset {preset_name}"
    for one in config.data.mixture.values():
        if one.path and (path(one.path) / FILE).exists():
            size = read_manifest(one.path).tokenizer.vocab_size
            source = f"that of the tokenizer of {one.path}"
            break
    note = f"vocabulary: {size:,} tokens, {source} (the recipe takes the tokenizer's)"
    return dataclasses.replace(model, vocab_size=size), [note]


def _machine_dict(machine: Machine) -> dict[str, Any]:
    chosen = machine.chosen
    return {
        "slice": chosen.where.name, "chips": chosen.where.chips,
        "devices": chosen.where.devices, "hosts": chosen.where.hosts, "kernel": machine.kernel,
        "hbm_bytes": machine.hbm, "headroom": HEADROOM, "fits": machine.fits,
        "days": machine.days, "costs": machine.costs, "prices_as_of": machine.prices.as_of,
        "chosen": _candidate_dict(chosen),
        "policies": [_candidate_dict(one) for one in machine.policies],
        "ranked": [_candidate_dict(one) for one in machine.ranked],
        "smallest": _candidate_dict(machine.smallest) if machine.smallest else None,
    }


def _candidate_dict(one: Candidate) -> dict[str, Any]:
    return {
        "slice": one.where.name, "chips": one.where.chips, "mesh": dataclasses.asdict(one.mesh),
        "remat": one.remat.name, "accumulation": one.accumulation,
        "memory_bytes": one.memory.parts(), "total_bytes": one.memory.total,
        "host_bytes": one.memory.offloaded,
        "step_seconds": one.step.total, "seconds": one.step.parts(), "mfu": one.step.mfu,
        "mfu_unhidden": one.step.mfu_unhidden,
        "tokens_per_second": one.step.tokens_per_second,
    }
