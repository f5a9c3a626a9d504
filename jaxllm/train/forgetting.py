"""The forgetting guard: general data whose loss is measured before, during and after tuning.

Its records have the split `forgetting/NAME`; those of step 0 are the base's. They stand in the
run's metrics, so that a run that is resumed still knows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jaxllm.core.paths import path, shortest_names
from jaxllm.core.rundir import Record
from jaxllm.train.tune import GuardConfig

SPLIT = "forgetting/"


def named(folders: Sequence[str]) -> dict[str, str]:
    """The folders by the split that their records have."""
    names = shortest_names([path(folder) for folder in folders])
    return {SPLIT + name: folder for name, folder in zip(names, folders, strict=True)}


class Guard:
    """Compares losses with those of the base, over the evaluations of a run."""

    def __init__(self, config: GuardConfig, before: Sequence[Record]):
        """`before` are the records that the run has so far."""
        self.config = config
        self._base: dict[str, float | None] = {}
        self._seen: dict[int, float] = {}  # validation losses of the evaluations within tolerance
        self.over: list[tuple[str, float]] = []  # as `take` gave them last
        by_step: dict[int, list[Record]] = {}
        for record in before:
            by_step.setdefault(record["step"], []).append(record)
        for step in sorted(by_step):
            self.take(step, by_step[step])

    def take(self, step: int, records: Sequence[Record]) -> list[tuple[str, float]]:
        """Notes an evaluation's records; gives the sets over the tolerance and by how much.

        Of a set the amount is the rise of its loss over the base's, in nats per target.
        """
        losses = {r["split"]: r["loss"] for r in records if r["split"].startswith(SPLIT)}
        if not losses:
            return []
        if step == 0:
            self._base.update(losses)
        over = []
        for split, loss in losses.items():
            base = self._base.get(split)
            rise = math.inf if loss is None else loss - base if base is not None else 0.0
            if rise > self.config.tolerance:
                over.append((split.removeprefix(SPLIT), rise))
        # by the split: a restored run is evaluated twice at its last step, and the second counts
        found = {r["split"]: r["loss"] for r in records if r["split"].startswith("validation")}
        validation = list(found.values())
        if not over and validation and None not in validation and step > 0:
            self._seen[step] = sum(validation) / len(validation)
        self.over = over
        return over

    @property
    def stops(self) -> bool:
        """Whether the run is to end where the last evaluation was."""
        return bool(self.over) and self.config.action == "stop"

    @property
    def restores(self) -> bool:
        """Whether a run that ends here is to end with the state of `best_step`."""
        return bool(self.over) and self.config.action == "restore"

    def knows(self, split: str) -> bool:
        """Whether the base was measured on a set."""
        return split in self._base

    def best_step(self, kept: Sequence[int]) -> int | None:
        """The step, of those `kept`, of the lowest validation loss while no set was over the
        tolerance."""
        steps = self._seen.keys() & set(kept)
        return min(steps, key=lambda step: (self._seen[step], step), default=None)


def rows(records: Sequence[Record]) -> Iterator[tuple[str, float, float, float]]:
    """Of each set that was measured at step 0 too: name, base's loss, the last one, difference.

    The run's own validation data come first, by the name that their source has.
    """
    base: dict[str, float] = {}
    last: dict[str, float] = {}
    for record in records:
        split, loss = record["split"], record.get("loss")
        if loss is not None and split.startswith((SPLIT, "validation")):
            (base if record["step"] == 0 else last)[split] = loss
    for split in sorted(base.keys() & last.keys(), key=lambda name: name.startswith(SPLIT)):
        yield split.removeprefix(SPLIT), base[split], last[split], last[split] - base[split]


def described(over: Sequence[tuple[str, float]], config: GuardConfig) -> str:
    """What a person is told of sets over the tolerance."""
    sets = ", ".join(f"{name} by {rise:.3f}" for name, rise in over)
    return f"the loss rose over the base's: {sets} (tune.guard.tolerance={config.tolerance:g})"
