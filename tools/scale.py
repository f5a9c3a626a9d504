"""Writes docs/scale.md: production recipes planned, and compiled for their slices without a device.

  python tools/scale.py                    compiles what is not in the table yet, writes the page
  python tools/scale.py llama3_8b:v6e-16   compiles these again
  python tools/scale.py --page             only writes the page
  python tools/scale.py llama3_8b_lora:qlora@v6e:1x1    a recipe of fine-tuning, on its slice

Fine-tuning starts from a folder that holds nothing but the config.json of Llama 3.1 8B.
Needs the `tpu` extra. A large model takes minutes; what is compiled is kept in docs/scale.json, so
that the run can be stopped and goes on.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from jaxllm.models.config import preset
from jaxllm.models.hf.family import family
from jaxllm.plan.calibration import calibration
from jaxllm.plan.plan import Plan, make_plan
from jaxllm.plan.shapes import model_shape
from jaxllm.plan.slices import parse_slice
from jaxllm.train.config import resolve_config

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "docs" / "scale.json", ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- begin: tools/scale.py -->", "<!-- end -->"
RECIPES = (
    "llama3_8b", "llama3_70b", "llama3_405b", "gpt3_175b", "gemma3_27b", "mistral_large_2",
    "t5_11b", "bert_large",
)
# Recipes of fine-tuning with the slices that they are compiled for: configs/tune/RECIPE:VARIANT.
TUNED_BASE = "llama3.1_8b"
TUNED = (
    ("llama3_8b_lora", "v5e-8", "v5e-8"), ("llama3_8b_lora", "v6e-8", "v6e-8"),
    ("llama3_8b_lora", "qlora", "v6e:1x1"),
)
FULL = "llama3_8b:v5p-8"  # the same shape tuned whole, with AdamW in float32
GB = 1e9
# MaxText's own step for Llama 3.1 8B, sequence 8192, FSDP, float32 weights with AdamW, compiled the
# same way with jax 0.12: GB allocated on a device, GB offloaded to the host, MB of code.
MAXTEXT = {
    "v6e-16": (32.24, 0.0, 66.4), "v5p-8": (55.62, 0.0, 36.4), "v5e-64": (8.19, 0.0, 40.3),
    "v6e-256": (12.03, 30.07, 97.8),
}


def main() -> None:
    """Compiles what is asked for or missing, and writes the page."""
    named = sys.argv[1:]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = list(cases())
    for recipe, variant, _ in found:
        key = f"{recipe}:{variant}"
        if "--page" not in named and (key in named or (not named and key not in results)):
            keep(results, key, compiled(f"{recipe}.py:{variant}"))
    for recipe, variant, where in TUNED:
        key = f"{recipe}:{variant}@{where}"
        if "--page" not in named and (key in named or (not named and key not in results)):
            keep(results, key, tuned(recipe, variant, where))
    write(found, results)


def keep(results: dict, key: str, result: dict) -> None:
    """Writes what was found at once: the next recipe takes minutes."""
    results[key] = result
    print(key, json.dumps(result), flush=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def cases() -> Iterator[tuple[str, str, ConfigDict]]:
    """(recipe, slice, values) of every production recipe."""
    for recipe in RECIPES:
        spec = importlib.util.spec_from_file_location(recipe, ROOT / "configs" / f"{recipe}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for variant in module.SLICES:
            yield recipe, variant, module.get_config(variant)


def tuned(recipe: str, variant: str, where: str) -> dict:
    """The same of a recipe of fine-tuning, whose base is a configuration without weights."""
    config = preset(TUNED_BASE).completed()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(family(config.family).write(config)))
        return compiled(
            f"tune/{recipe}.py:{variant}", f"--topology={where}",
            f"--config.train.init_from={folder}",
        )


def compiled(recipe: str, *flags: str) -> dict:
    """What `jaxllm check` says of a recipe of configs/ on its slice, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "check.json"
        done = subprocess.run(
            [sys.executable, "-m", "jaxllm", "check", f"--config=configs/{recipe}",
             f"--output={file}", *flags],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )
        if not file.exists():
            return {"failures": [done.stderr.strip()[-500:]]}
        return json.loads(file.read_text())


def write(found: list, results: dict) -> None:
    """Puts the tables between the page's marks."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    parts = (
        recipes_table(found, results), tuned_table(results), maxtext_table(results),
        calibration_table(),
    )
    tables = "\n\n".join("\n".join(part) for part in parts)
    PAGE.write_text(f"{head}{BEGIN}\n{tables}\n{END}{tail}")


def recipes_table(found: list, results: dict) -> Iterator[str]:
    """A row for each recipe and slice: what is planned (reckoned) and what the compiler says."""
    yield (
        "| recipe | slice, chips | tokens a step | mesh, remat | reckoned GB | compiled GB of the "
        "chip's | code MB | compile s | s/step | MFU (FSDP not hidden) | tokens/s/chip | compiler |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for recipe, variant, values in found:
        plan = planned(values, variant)
        machine, one = plan.machine, plan.machine.chosen
        result = results.get(f"{recipe}:{variant}", {})
        step = result.get("compiled")
        took = ("not compiled", "", "", "") if not step else (
            f"{step['total'] / GB:.2f} of {machine.hbm / GB:.2f} "
            f"({1 - step['total'] / machine.hbm:.0%} free)",
            f"{step['code'] / 1e6:.0f}", f"{step['seconds']:.0f}", step["compiler"],
        )
        if result.get("failures") and not step:
            took = ("FAILS", "", "", "")
        cells = (
            recipe, f"{variant}, {one.where.chips}", f"{plan.size.tokens_per_step:,}",
            f"{one.mesh.words()}, {one.remat.name}", f"{one.memory.total / GB:.1f}", *took[:3],
            f"{one.step.total:.2f}", f"{one.step.mfu:.1%} ({one.step.mfu_unhidden:.1%})",
            f"{one.step.tokens_per_second / one.where.chips:,.0f}", took[3],
        )
        yield f"| {' | '.join(cells)} |"


def tuned_table(results: dict) -> Iterator[str]:
    """Where the memory goes when adapters of rank 16 on all linear maps of Llama 3.1 8B train."""
    yield (
        "| adapters of rank 16 on Llama 3.1 8B | frozen GB | bits a parameter of the layers' "
        "matrices | trained GB | its optimizer GB, of full tuning's | temporaries GB | compiled "
        "GB of the chip's | compile s | compiler |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    shape = model_shape(preset(TUNED_BASE).completed())
    matrices = sum(t.layers * sum(w.size for w in t.layer if w.kernel) for t in shape.towers)
    whole = results.get(FULL, {}).get("compiled")
    for recipe, variant, where in TUNED:
        result = results.get(f"{recipe}:{variant}@{where}", {})
        if not (step := result.get("compiled")):
            yield f"| `{variant}` on {where} |{' not compiled |' * 8}"
            continue
        parts, devices = step["parts"], parse_slice(where).devices
        # what the compiler holds besides the parts that are no part of the base
        base = step["arguments"] - sum(parts.values()) + parts["frozen"]
        bits = 8 * (base * devices - 2 * (shape.parameters - matrices)) / matrices
        share = ""
        if whole:  # of its parameters and two moments in float32
            full = 2 / 3 * whole["arguments"] * parse_slice(FULL.partition(":")[2]).devices
            share = f", {parts['opt_state'] * devices / full:.2%}"
        cells = (
            f"`{variant}` on {where}", f"{base / GB:.2f}", f"{bits:.2f}",
            f"{parts['params'] / GB:.2f}", f"{parts['opt_state'] / GB:.2f}{share}",
            f"{step['temporaries'] / GB:.2f}",
            f"{step['total'] / GB:.2f} of {result['hbm_bytes'] / GB:.2f}",
            f"{step['seconds']:.0f}", step["compiler"],
        )
        yield f"| {' | '.join(cells)} |"


def maxtext_table(results: dict) -> Iterator[str]:
    """Ours beside MaxText's where both were compiled for one slice."""
    yield (
        "| Llama 3.1 8B on | MaxText GB, and on the host | ours GB, and on the host | MaxText code "
        "MB | ours |"
    )
    yield "|---|---|---|---|---|"
    for name, (total, host, code) in MAXTEXT.items():
        step = results.get(f"llama3_8b:{name}", {}).get("compiled")
        if step:
            yield (
                f"| {name} | {total:.2f}, {host:.2f} | {step['total'] / GB:.2f}, "
                f"{step['host'] / GB:.2f} | {code:.1f} | {step['code'] / 1e6:.1f} |"
            )


def calibration_table() -> Iterator[str]:
    """The roofline against published measurements."""
    yield "| published run | measured MFU | predicted | deviation |"
    yield "|---|---|---|---|"
    for row in calibration():
        cells = (row.run.name, f"{row.measured:.1%}", f"{row.predicted:.1%}",
                 f"{row.deviation:+.1%}")
        yield f"| {' | '.join(cells)} |"


def planned(values: ConfigDict, variant: str) -> Plan:
    """The plan of a recipe on its slice."""
    return make_plan(resolve_config(values), variant, preset_name=values.model.preset)


if __name__ == "__main__":
    main()
