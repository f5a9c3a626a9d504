"""Plans on the report page: what `jaxllm plan --output` wrote, and loss against compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.core.display import short
from jaxllm.core.paths import path
from jaxllm.plan import scaling
from jaxllm.plan.plan import read_plan
from jaxllm.report.figures import Chart, colour, finish

FILE = "plan.json"


@dataclass(frozen=True)
class Planned:
    """A plan as the page shows it."""

    name: str
    content: dict[str, Any]
    rows: list[tuple[str, str]]


def split_plans(paths: Sequence[str]) -> tuple[list[str], list[Planned]]:
    """The run directories among the paths, and the plans: files, or in directories.

    Raises:
      UserError: a file is no plan.
    """
    runs, plans = [], []
    for name in dict.fromkeys(paths):
        place = path(name)
        file = place if str(name).endswith(".json") else place / FILE
        if file.exists():
            content = read_plan(str(file))
            plans.append(Planned(str(name), content, _rows(content)))
        if not str(name).endswith(".json") and (
            not file.exists() or (place / "config.json").exists()
        ):
            runs.append(name)
    return runs, plans


def folder(plan: Planned) -> str:
    """The directory that the plan lies in."""
    return str(path(plan.name).parent) if plan.name.endswith(".json") else plan.name


def loss_chart(plans: Sequence[Planned]) -> list[Chart]:
    """Loss against compute: the best that any size reaches, each plan's model, each plan's point.

    Only decoders have a scaling law here; no plan of one: no chart.
    """
    plans = [plan for plan in plans if plan.content["loss"] is not None]
    if not plans:
        return []
    import plotly.graph_objects as go

    law, figure = scaling.BESIROGLU, go.Figure()
    sizes = [plan.content["size"] for plan in plans]
    budgets = [size["flops"] for size in sizes] + [plan.content["budget_flops"] for plan in plans]
    low, high = (math.log10(pick(budgets)) for pick in (min, max))
    flops = np.logspace(low - 2, high + 2, 80)
    best = [law.loss(*law.optimum(c)) for c in flops]
    figure.add_trace(_line(go, flops, best, "the best size at each budget", "#8f979e", "dot"))
    for index, (plan, size) in enumerate(zip(plans, sizes, strict=True)):
        n = size["parameters"]
        losses = [law.loss(n, c / (6 * n)) for c in flops]
        shown = colour(index)
        figure.add_trace(_line(go, flops, losses, f"{short(n)} parameters", shown, "solid"))
        figure.add_trace(go.Scatter(
            x=[size["flops"]], y=[plan.content["loss"]], name=f"{plan.name}: the run",
            mode="markers", marker={"size": 12, "color": shown, "symbol": "diamond"},
            hovertemplate="%{x:.3g} FLOPs: %{y:.3f}",
        ))
    figure.update_xaxes(title="FLOPs of the training run", type="log", exponentformat="power")
    figure.update_yaxes(range=[law.E, max(best[0], *(p.content["loss"] for p in plans)) * 1.1])
    note = "nats per token as predicted by Besiroglu et al. 2024; FLOPs of the law are 6 N D"
    return [finish("plan_loss", "Loss against compute", note, figure, wide=True)]


def _line(go, x, y, name: str, line_colour: str, dash: str):
    return go.Scatter(
        x=x, y=y, name=name, mode="lines", line={"color": line_colour, "width": 2, "dash": dash},
        hovertemplate="%{y:.3f}",
    )


def _rows(content: dict[str, Any]) -> list[tuple[str, str]]:
    size, machine = content["size"], content["machine"]
    rows = [
        ("parameters", f"{size['parameters']:,}"),
        ("tokens", f"{short(size['tokens'])} ({size['tokens'] / size['parameters']:.1f} each)"),
        ("FLOPs", f"{size['flops']:.4g} ({size['petaflop_days']:,.4g} petaFLOP/s-days)"),
    ]
    if machine:
        chosen = machine["chosen"]
        mesh = " x ".join(f"{k} {n}" for k, n in chosen["mesh"].items() if n > 1) or "one device"
        gigabytes = f"{chosen['total_bytes'] / 1e9:.1f} of {machine['hbm_bytes'] / 1e9:.1f} GB"
        rows += [
            ("slice", f"{machine['slice']} ({machine['chips']} chips): {mesh}"),
            ("remat", chosen["remat"]),
            ("memory of a device", gigabytes + ("" if machine["fits"] else ": does not fit")),
            ("step", f"{chosen['step_seconds']:.3g} s, MFU {100 * chosen['mfu']:.1f} %"),
            ("days", f"{machine['days']:.3g}"),
            *((f"cost, {term.replace('_', ' ')}", f"{cost:,.0f}")
              for term, cost in machine["costs"].items() if cost is not None),
        ]
    best = next(one for one in content["advice"] if one["approach"] == scaling.ADVISED)
    rows.append((
        f"best for {content['budget_flops']:.3g} FLOPs",
        f"{short(best['parameters'])} parameters, {short(best['tokens'])} tokens",
    ))
    return rows
