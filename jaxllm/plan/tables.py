"""A plan as the tables that `jaxllm plan` prints."""

from __future__ import annotations

from jaxllm.core.display import Display, short
from jaxllm.plan.plan import Machine, Plan
from jaxllm.plan.scaling import ADVISED
from jaxllm.plan.search import Candidate, fits_slice
from jaxllm.train.config import HEADROOM

MFU = (
    "MFU = tokens/s x FLOPs per token / (chips x peak); FLOPs per token = 3 x (2 x matrix "
    "parameters + attention), causal attention counted once, recomputation not"
)


def show(plan: Plan, display: Display) -> None:
    """Prints every part of the plan."""
    display.table("The model and its training", ("what", "value"), _size(plan))
    display.table(
        f"Best use of {plan.budget:.3g} FLOPs ({ADVISED} is advised)",
        ("approach", "parameters", "tokens", "tokens per parameter", "loss"), _advice(plan),
    )
    if plan.machine:
        _show_machine(plan, plan.machine, display)
    notes = [*plan.notes, MFU] if plan.machine else plan.notes
    if notes:
        print("Assumed:", *(f"- {note}" for note in notes), sep="\n")


def _show_machine(plan: Plan, machine: Machine, display: Display) -> None:
    chosen, where = machine.chosen, machine.chosen.where
    used, step = chosen.memory, chosen.step
    verdict = "fits" if machine.fits else "DOES NOT FIT"
    title = (
        f"Memory of a device of {where.name}: {chosen.words()}, remat {chosen.remat.name}, "
        f"{machine.kernel} attention: {verdict}"
    )
    rows = [(name, gigabytes(part), percent(part / machine.hbm)) for name, part in
            used.parts().items()]
    rows.append(("in all", gigabytes(used.total), percent(used.total / machine.hbm)))
    rows.append((f"the device, of which {percent(HEADROOM)} stay free", gigabytes(machine.hbm), ""))
    if used.offloaded:
        rows.append(("on the host", gigabytes(used.offloaded), ""))
    display.table(title, ("part", "GB", "share"), rows)

    rows = [(name, f"{part:.4g}", percent(part / step.total)) for name, part in
            step.parts().items() if part]
    rows.append(("a step", f"{step.total:.4g}", ""))
    display.table("Time of a step", ("part", "seconds", "share"), rows)
    display.table("The run", ("what", "value"), _run(plan, machine))
    columns = ("mesh", "remat", "s/step", "MFU", "tokens/s/chip", "GB")
    display.table(
        f"Remat policies on the recipe's mesh ({chosen.mesh.words()})", (*columns, "fits"),
        [
            (*_candidate(one), "yes" if fits_slice(one.memory, one.where) else "no")
            for one in machine.policies
        ],
    )
    display.table(
        f"Meshes and remat policies on {where.name}: the fastest of {machine.found} that fit",
        columns, [_candidate(one) for one in machine.ranked],
    )


def _size(plan: Plan) -> list[tuple[str, str]]:
    size = plan.size
    loss = f"{plan.loss:.3f} nats per token" if plan.loss == plan.loss else "–"
    return [
        ("parameters", f"{size.parameters:,}"),
        ("without embedding tables", f"{size.non_embedding:,}"),
        ("active per token", f"{size.active:,}"),
        ("FLOPs per token, forward and backward", f"{size.flops_per_token:.4g}"),
        ("recomputed by remat, share of the step's FLOPs", percent(size.recomputed_share)),
        ("tokens per step", f"{size.tokens_per_step:,}"),
        ("steps", f"{size.steps:,.0f}"),
        ("tokens", f"{short(size.tokens)} ({size.tokens / size.parameters:.1f} per parameter)"),
        ("FLOPs", f"{size.flops:.4g}"),
        ("petaFLOP/s-days", f"{size.petaflop_days:,.4g}"),
        ("loss that the scaling law predicts", loss),
    ]


def _advice(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            one.approach, short(one.parameters), short(one.tokens),
            f"{one.tokens / one.parameters:.1f}", "–" if one.loss is None else f"{one.loss:.3f}",
        )
        for one in plan.advice
    ]


def _run(plan: Plan, machine: Machine) -> list[tuple[str, str]]:
    chosen, where = machine.chosen, machine.chosen.where
    hours = machine.days * 24 * where.chips
    rows = [
        ("slice", f"{where.name}: {where.chips} chips, {where.devices} devices, "
                  f"{where.hosts} hosts"),
        ("predicted MFU", percent(chosen.step.mfu)),
        ("the same if nothing of FSDP's traffic were hidden", percent(chosen.step.mfu_unhidden)),
        ("tokens/s", f"{short(chosen.step.tokens_per_second)}, "
                     f"{chosen.step.tokens_per_second / where.chips:,.0f} per chip"),
        ("days", f"{machine.days:.3g} ({short(hours)} chip-hours)"),
    ]
    prices = machine.prices
    for term, cost in machine.costs.items():
        price = prices.of(where.chip.name)[term]
        rows.append((
            f"cost, {term.replace('_', ' ')}",
            "no price known" if cost is None else
            f"{cost:,.0f} {prices.currency} at {price:g} per chip-hour",
        ))
    rows.append(("prices", f"list prices as of {prices.as_of}, to be checked ({prices.source})"))
    best = machine.smallest
    rows.append((
        f"smallest {where.chip.name} slice that fits",
        "none" if best is None else
        f"{best.where.name} ({best.where.chips} chips): {best.words()}, remat {best.remat.name}, "
        f"{best.step.total:.3g} s a step, MFU {percent(best.step.mfu)}",
    ))
    return rows


def _candidate(one: Candidate) -> tuple[str, ...]:
    step = one.step
    return (
        one.words(), one.remat.name, f"{step.total:.4g}", percent(step.mfu),
        f"{step.tokens_per_second / one.where.chips:,.0f}", gigabytes(one.memory.total),
    )


def percent(share: float) -> str:
    """Such as 41.9 %."""
    return f"{100 * share:.3g} %"


def gigabytes(size: float) -> str:
    """In units of 1e9 bytes."""
    return f"{size / 1e9:.2f}"
