"""jaxllm train: trains a model from a recipe, or goes on where the run directory stands.

  jaxllm train --config=configs/quickstart.py --workdir=runs/first
  jaxllm train --config=configs/quickstart.py:debug --workdir=runs/try --config.train.steps=20
"""

from __future__ import annotations

import os
from functools import partial

from absl import flags as absl_flags

from jaxllm.cli.flags import parse
from jaxllm.cli.recipes import as_defaults

CLUSTER = {
    "coordinator": "HOST:PORT of process 0 of a run on several hosts, where nothing else says it "
    "(TPU slices, Slurm and Kubernetes do); also JAX_COORDINATOR_ADDRESS.",
    "processes": "How many processes the run has; also JAX_NUM_PROCESSES.",
    "process": "Which of them this is, from 0; also JAX_PROCESS_ID.",
}
MEASURES = ("loss", "perplexity", "accuracy", "bits_per_byte")


def main(argv: list[str]) -> int:
    """Runs the verb."""
    values, flags = parse(argv, __doc__, _define)

    from jaxllm.core.config import difference
    from jaxllm.train.config import default_config, resolve_config

    base = None
    resolve_config(values)  # a wrong key is reported before anything heavy is loaded
    changed = difference(values, default_config())

    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start(told={name: flags[name].value for name in CLUSTER})
    import jax

    from jaxllm.core.rundir import RunDirectory, read_metrics
    from jaxllm.models.load import find_model
    from jaxllm.train import forgetting
    from jaxllm.train.loop import train
    from jaxllm.train.origin import naming_init_from

    if values.train.init_from:
        with naming_init_from(values.train.init_from):
            base = find_model(values.train.init_from).config
    config = resolve_config(values, base)
    first = jax.process_index() == 0  # of several hosts one speaks
    with make_display(None if first else open(os.devnull, "w")) as display:
        if same := as_defaults(argv, changed):
            display.message(f"given, and as the defaults are: {', '.join(same)}")
        records = train(
            config, changed, flags.workdir, display, partial(_evaluators, config), flags.compiled
        )
        rows = [
            tuple(r.get(name) for name in ("split", "step", *MEASURES))
            for r in records if "loss" in r
        ]
        if rows and first:
            columns = ("split", "step", *(name.replace("_", " ") for name in MEASURES))
            display.table(f"{flags.workdir}", columns, rows)
        if config.tune.guard.data and first:
            columns = ("data", "base", "tuned", "difference")
            losses = forgetting.rows(read_metrics(RunDirectory(flags.workdir).metrics))
            display.table("loss before and after", columns, [
                (name, base, tuned, f"{difference:+.4f}")
                for name, base, tuned, difference in losses
            ])
    return 0


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string(
        "compiled", "", "Folder of jaxllm check --save-compiled: its step is loaded instead of "
        "compiled, where it is the run's own.", flag_values=values,
    )
    for name, text in CLUSTER.items():
        absl_flags.DEFINE_string(name, None, text, flag_values=values)


def _evaluators(config, splits) -> list:
    found = []
    if config.eval.evaluators:
        from jaxllm.evals import evaluators

        size = config.eval.batch_size or config.data.global_batch_size
        found += evaluators.make(config.eval.evaluators, splits, size, config.eval.batches)
    if config.eval.prompts:
        from jaxllm.generate.samples import SampleEvaluator

        found.append(SampleEvaluator(config.eval.prompts, config.eval.sample_tokens))
    return found
