"""Advice as `jaxllm advise` prints it: the ranking, the reasons of the best, its command."""

from __future__ import annotations

import textwrap

from jaxllm.core.display import Display, Value
from jaxllm.plan.advise import Advice, Option
from jaxllm.plan.tables import gigabytes


def show(advice: Advice, display: Display) -> None:
    """Prints the ranking, the reasons and the command of the best."""
    rows = [_row(place, option) for place, option in enumerate(advice.options, 1)]
    title = f"Approaches on {advice.machine}, {advice.device_memory / 1e9:.1f} GB a device"
    columns = ("", "approach", "model", "GB a device", "training", "an answer", "why")
    display.table(title, columns, rows)
    best = advice.best
    if best is None:
        print("None of them is possible: get more data, other hardware, or a smaller model.")
    else:
        print(f"Advice: {best.what}.")
        for reason in best.reasons:
            sign = "+" if reason.points > 0 else "-"
            print(textwrap.fill(
                f"{reason.text} ({reason.source})", 100, initial_indent=f"  {sign} ",
                subsequent_indent="    ",
            ))
        if best.mesh:
            print(f"  {best.mesh}")
        print(f"\n  {best.command}\n")
    print("Assumed:", *(f"- {note}" for note in advice.notes), sep="\n")


def _row(place: int, option: Option) -> tuple[Value, ...]:
    why = option.reasons[0].text if option.reasons else option.what
    if not option.possible:
        return None, option.approach, "–", None, None, None, why
    return (
        place, option.approach, option.model, gigabytes(option.memory), hours(option.hours),
        hours(option.latency / 3.6e6), why,
    )


def hours(number: float) -> str:
    """A time in the unit that suits it."""
    if number == 0:
        return "none"
    for unit, size in (("days", 24.0), ("h", 1.0), ("min", 1 / 60), ("s", 1 / 3600)):
        if number >= (2 if unit == "days" else 1) * size:
            return f"{number / size:.3g} {unit}"
    return f"{number * 3.6e6:.3g} ms"
