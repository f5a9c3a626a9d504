"""jaxllm check: everything that can fail before the first step, and the real compile, no device.

  jaxllm check --config=configs/llama3_8b.py:v6e-16
  jaxllm check --config=configs/llama.py --topology=v5p-128 --nocompile
  jaxllm check --config=configs/llama3_8b.py:v6e-16 --save-compiled=gs://bucket/llama3_8b
"""

from __future__ import annotations

import json

from absl import flags

from jaxllm.cli.flags import missing, parse, topology
from jaxllm.core.errors import UserError


def main(argv: list[str]) -> int:
    """Runs the verb."""
    values, options = parse(argv, __doc__, _define, workdir=False)

    from jaxllm.core.display import make_display
    from jaxllm.core.paths import atomic_write_text, make_directory, path
    from jaxllm.plan.check import check, prepare_environment
    from jaxllm.train.config import resolve_config

    where = topology(argv, options.topology)
    if not where:
        raise missing("topology")
    save_to = options["save-compiled"].value
    if save_to and not options.compile:
        raise UserError(f"--save-compiled={save_to} needs the compile: leave --nocompile away.")
    prepare_environment()
    base = None
    if values.train.init_from:
        from jaxllm.models.load import find_model
        from jaxllm.train.origin import naming_init_from

        with naming_init_from(values.train.init_from):
            base = find_model(values.train.init_from).config
    with make_display() as display:
        found = check(
            resolve_config(values, base), where, preset_name=values.model.preset or "",
            workdir=options.workdir, compiles=options.compile, save_to=save_to,
            say=display.message,
        )
        display.table(f"{found.where.name}", ("what", "found"), found.facts)
    if options.output:
        make_directory(path(options.output).parent)
        atomic_write_text(options.output, json.dumps(found.to_dict(), indent=1) + "\n")
    if not found.passed:
        raise UserError(" ".join(found.failures))
    print("Nothing was found that would stop the run.")
    return 0


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "topology", "", "Chips: v5p:4x4x8 (grid), v5p-256 or v6e-256 (Cloud's names), 4xv5p-1024 "
        "(four slices), h200:8.", flag_values=values,
    )
    flags.DEFINE_string(
        "workdir", "", "Where the run would write: looks whether the checkpoints have room.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", "", "File to write what was found to, as JSON.", flag_values=values
    )
    flags.DEFINE_bool(
        "compile", True, "Compile the step; --nocompile looks only at what is cheap.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "save-compiled", "", "Folder to keep the compiled step in; jaxllm train --compiled=FOLDER "
        "loads it instead of compiling.", flag_values=values,
    )
