"""Which approach suits a user's goal, data and hardware: what `jaxllm advise` prints.

Memory and time are those of `jaxllm plan`, for a step that trains what the approach trains; the
ranking is that of the table in `rules.py`.
"""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from typing import Any

from jaxllm.core.display import short
from jaxllm.plan.adapters import RANK
from jaxllm.plan.rules import APPROACHES, NEVER, RULES
from jaxllm.plan.search import hbm
from jaxllm.plan.situation import EPOCHS, MOST_EPOCHS, SHOTS, Facts, Situation
from jaxllm.plan.tuning import Assumed, Cost

RECIPES = {
    "llama3.1_8b": "configs/tune/llama3_8b_lora.py", "gemma3_4b": "configs/tune/gemma_lora.py",
}


@dataclass(frozen=True)
class Reason:
    """Why, and who says so."""

    text: str
    points: float
    source: str


@dataclass(frozen=True)
class Option:
    """One approach in this situation."""

    approach: str
    what: str
    points: float  # minus infinity: ruled out
    reasons: tuple[Reason, ...]  # the weightiest first
    model: str
    memory: float  # bytes of a device, in training or, where nothing trains, in use
    hours: float  # of training
    latency: float  # milliseconds of an answer
    mesh: str
    command: str

    @property
    def possible(self) -> bool:
        """Whether no rule speaks it out."""
        return self.points > NEVER


@dataclass(frozen=True)
class Advice:
    """All approaches, the best first, those that are ruled out last."""

    situation: Situation
    machine: str
    device_memory: float  # bytes
    options: tuple[Option, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> Option | None:
        """The first that is possible."""
        return self.options[0] if self.options and self.options[0].possible else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; points that rule out are null."""
        content = dataclasses.asdict(self)
        for option in content["options"]:
            for part in (option, *option["reasons"]):
                part["points"] = None if part["points"] == NEVER else part["points"]
        return content


def advise(situation: Situation) -> Advice:
    """The approaches for a situation, ranked.

    Raises:
      UserError: an unknown goal, model or machine, or numbers that mean nothing.
    """
    facts = Facts(situation.checked())
    options = sorted(
        (_option(name, facts) for name in APPROACHES), key=lambda o: (-o.points, o.hours)
    )
    return Advice(
        facts.said, facts.where.name, hbm(facts.where), tuple(options), tuple(_notes(facts))
    )


def _option(name: str, facts: Facts) -> Option:
    words, found = facts.words(), []
    for rule in RULES:
        if rule.approach != name or (found and found[0].points == NEVER):
            continue  # once ruled out, later rules may ask what has no answer
        if rule.when(facts):
            reason = Reason(rule.reason.format(**words), rule.points, rule.source)
            found = [reason] if rule.points == NEVER else [*found, reason]
    out = bool(found) and found[0].points == NEVER
    cost, model = (None, "") if out else _cost(name, facts)
    memory = facts.use_bytes(name) / facts.where.devices if cost is None else cost.memory.total
    return Option(
        name, APPROACHES[name], sum(r.points for r in found),
        tuple(sorted(found, key=lambda r: -abs(r.points))), model,
        0.0 if out else memory, 0.0 if out else facts.hours(name),
        0.0 if out else facts.latency(name), "" if cost is None else _words(cost),
        "" if out else _command(name, facts),
    )


def _cost(name: str, facts: Facts) -> tuple[Cost | None, str]:
    """What training takes, and of which model."""
    if name in ("few_shot", "retrieval"):
        return None, facts.writer
    if name == "scratch":
        return facts.from_scratch(), f"{short(facts.scratch_parameters)} parameters"
    if name == "continued":
        method, cost = facts.continued()
        return cost, facts.model_name + ("" if method == "full" else f", by {method}")
    return facts.tuned(name), facts.model_name


def _words(cost: Cost) -> str:
    micro = f", {cost.accumulation} microbatches" if cost.accumulation > 1 else ""
    return f"{cost.mesh.words()}, remat {cost.remat}{micro}"


def _command(name: str, facts: Facts) -> str:
    """The first command to run; paths are placeholders."""
    goal, base = facts.goal, shlex.quote(f"models/{facts.model_name}")
    if name == "few_shot":
        return (
            f"jaxllm generate --model=models/{facts.writer} --temperature=0 --prompt=\"$(cat "
            f"prompt_with_{SHOTS}_examples.txt)\""
        )
    if name == "retrieval":
        return (
            f"jaxllm generate --model=models/{facts.writer} --temperature=0 "
            '--prompt="$(cat passages_and_question.txt)"'
        )
    rows = f"--config.data.mixture.{goal.rows}.path=rows.jsonl"
    if facts.said.goal == "classify":  # the recipe's own data names its labels otherwise
        rows += f" --config.data.mixture.{goal.rows}.columns.label=label"
    if name == "scratch":
        if facts.small:
            recipe = goal.recipe.partition(":")[0]
            return f"jaxllm train --config={recipe} --workdir=runs/mine {rows}"
        return (
            "jaxllm prepare --config=configs/data/text.py --workdir=data/text && jaxllm plan "
            f"--config=configs/llama.py --budget_flops="
            f"{6 * facts.scratch_parameters * MOST_EPOCHS * facts.tokens:.2g}"
        )
    if name == "continued":
        method = facts.continued()[0]
        tune = "" if method == "full" else " --config.tune.method=lora"
        tune += " --config.tune.quantization=nf4" if method == "qlora" else ""
        objective = {"encoder": "masked", "encoder_decoder": "span_corruption"}
        kind = objective.get(facts.config.architecture, "")
        tune += f" --config.data.objective={kind}" if kind else ""
        return (
            f"jaxllm train --config=configs/tune/domain.py --workdir=runs/domain "
            f"--config.train.init_from={base}{tune}"
        )
    return _tuning(name, facts, base, rows)


def _tuning(name: str, facts: Facts, base: str, rows: str) -> str:
    """Tuning on rows: the goal's recipe, with adapters where they are meant."""
    recipe, goal = facts.goal.recipe, facts.goal
    settings = f"--config.train.init_from={base} {rows}"
    if goal.rows == "rows":  # of decoders: the recipes have variants
        if name != "full" and facts.model_name in RECIPES:
            recipe = RECIPES[facts.model_name]
            recipe += ":qlora" if name == "qlora" and "llama" in recipe else ""
        elif name != "full":
            recipe = f"configs/tune/instruct.py:{name}"
        else:
            recipe = "configs/tune/instruct.py"
        quantise = name == "qlora" and ":qlora" not in recipe
        settings += " --config.tune.quantization=nf4" if quantise else ""
    elif name != "full":
        settings += f" --config.tune.method=lora --config.tune.lora.r={RANK}"
        settings += " --config.tune.quantization=nf4" if name == "qlora" else ""
    return f"jaxllm train --config={recipe} --workdir=runs/mine {settings}"


def _notes(facts: Facts) -> list[str]:
    said, notes = facts.said, []
    if not said.model:
        notes.append(
            f"the model is {facts.model_name} ({short(facts.parameters)} parameters), as no "
            "--model was named"
        )
    notes += [
        f"training rows of {facts.goal.length} tokens, examples of {facts.goal.tokens} on average, "
        f"{EPOCHS} epochs; continued pre-training once over the text with a tenth replayed",
        f"adapters of rank {RANK} on every matrix of the layers; AdamW in float32 of what trains",
        "an answer is one at a time on the whole machine: the prompt at 40 % of its peak, each "
        "token at 60 % of its memory's bandwidth",
    ]
    chip = facts.where.chip
    if isinstance(chip, Assumed):
        notes.append(
            f"{chip.name}: {chip.hbm_bytes / 1e9:.3g} GB, {chip.peak / 1e12:.3g} TFLOP/s, "
            f"{chip.hbm_bandwidth / 1e9:.3g} GB/s ({chip.source})"
        )
    if said.goal in ("domain", "chat", "answer"):
        notes.append(
            "measure what is forgotten: tune.guard.data and tune.replay.path (docs/finetuning.md)"
        )
    return notes
