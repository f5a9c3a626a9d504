"""jaxllm distill: keeps what a teacher predicts for a recipe's examples, or has it answer prompts.

With --config it keeps the likeliest tokens of a recipe's examples in --workdir, to train with:

  jaxllm distill --config=configs/llama.py --workdir=data/teacher \\
      --config.tune.distillation.teacher=runs/teacher
  jaxllm train --config=configs/llama.py --workdir=runs/student \\
      --config.tune.distillation.cache=data/teacher

With --model it answers prompts; the flags from --model on are for this:

  jaxllm distill --model=runs/teacher --prompts=prompts.jsonl --output=data/rows.jsonl
"""

from __future__ import annotations

import re

from absl import flags

from jaxllm.cli.flags import parse, required
from jaxllm.core.errors import UserError


def main(argv: list[str]) -> int:
    """Runs the verb."""
    if any(re.match(r"--?(model|prompts|output)(=|$)", argument) for argument in argv):
        return _answers(argv)
    both = _define if {"--help", "-h"} & set(argv) else None  # help lists the flags of both ways
    values, options = parse(argv, __doc__, both)

    from jaxllm.train.config import resolve_config

    resolve_config(values)  # a wrong key is reported before anything heavy is loaded

    from jaxllm.core import devices
    from jaxllm.core.display import make_display

    devices.start()
    from jaxllm.models.load import find_model
    from jaxllm.train.distill.job import write_cache
    from jaxllm.train.origin import naming_init_from

    base = None
    if values.train.init_from:
        with naming_init_from(values.train.init_from):
            base = find_model(values.train.init_from).config
    with make_display() as display:
        info = write_cache(resolve_config(values, base), options.workdir, display)
    print(
        f"{options.workdir}: the {info.top_k} likeliest tokens of each target of "
        f"{info.examples:,} examples. Train with --config.tune.distillation.cache="
        f"{options.workdir}"
    )
    return 0


def _answers(argv: list[str]) -> int:
    """A teacher's answers as rows."""
    _, values = parse(argv, __doc__, _define, config=False, workdir=False)
    name, prompts, output = (required(values, n) for n in ("model", "prompts", "output"))
    if values.batch < 1:
        raise UserError(f"--batch={values.batch} must be at least 1.")

    from jaxllm.core.display import make_display
    from jaxllm.core.paths import make_directory, path
    from jaxllm.generate.defaults import Defaults
    from jaxllm.generate.distill import Answering, write_answers
    from jaxllm.generate.model import load

    make_directory(path(output).parent)
    teacher = load(name)
    teacher.defaults = teacher.defaults.otherwise(Defaults(max_new_tokens=512))
    drawing = {
        "max_new_tokens": values.max_new_tokens, "temperature": values.temperature,
        "top_p": values.top_p, "stop": values.stop,
    }
    how = Answering(values.batch, values.keep_unfinished, values.seed, drawing)
    with make_display() as display:
        counts = write_answers(teacher, prompts, output, how, display)
    print(f"{output}: {counts.words()}")
    return 0


def _define(values: flags.FlagValues) -> None:
    add = {"flag_values": values}
    flags.DEFINE_string("model", None, "The teacher, as jaxllm generate takes it.", **add)
    flags.DEFINE_string("prompts", None, "JSONL with `prompt` or `messages` in each line.", **add)
    flags.DEFINE_string("output", None, "JSONL to write: the rows with `completion`.", **add)
    flags.DEFINE_integer("max_new_tokens", None, "Tokens of an answer at most (512).", **add)
    flags.DEFINE_float("temperature", None, "0: always the likeliest token (1.0).", **add)
    flags.DEFINE_float("top_p", None, "Draw from the likeliest that add up to p (1.0).", **add)
    flags.DEFINE_multi_string("stop", [], "Text that ends an answer; repeatable.", **add)
    flags.DEFINE_integer("batch", 8, "Prompts at a time.", **add)
    flags.DEFINE_bool(
        "keep_unfinished", False, "Keep answers that ran out of tokens; else left out.", **add
    )
    flags.DEFINE_integer("seed", 0, "Of the draws.", **add)
