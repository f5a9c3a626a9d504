"""pass@k of models: they write programs for problems, and those are run (Chen et al. 2021)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError, naming_memory
from jaxllm.core.mesh import check_batch
from jaxllm.core.paths import path, shortest_names
from jaxllm.core.rundir import append_records
from jaxllm.evals.code import sandbox
from jaxllm.evals.code.pass_at_k import check_allowed, judge, scores
from jaxllm.evals.code.problems import Problem, read_problems
from jaxllm.evals.harness.run import TaskScore, records, write
from jaxllm.evals.harness.session import Opened, read_model
from jaxllm.evals.scoring.writer import Wanted, Writer
from jaxllm.generate.sampling import Sampling
from jaxllm.generate.steps import check_prompts, start_id
from jaxllm.models.load import find_model

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # of HumanEval: what follows the function
COOL, WARM = 0.2, 0.8  # temperatures for pass@1 and for larger k, as in section 3.3 of the paper
MOST_AT_ONCE = 8  # programs that run
MEMORY = "Lower --batch_size or --max_new_tokens."


@dataclass(frozen=True)
class Options:
    """How programs are written."""

    pass_at: tuple[int, ...] = (1,)
    num_samples: int = 0  # programs of each problem; 0: the largest k
    temperature: float | None = None  # None: 0.2 for k = 1, else 0.8
    top_p: float = 0.95
    max_new_tokens: int = 512
    limit: int = 0  # problems; 0: all
    batch_size: int = 16
    seed: int = 0

    @property
    def programs(self) -> int:
        """Programs of each problem."""
        return self.num_samples or max(self.pass_at)

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        usual = COOL if max(self.pass_at) == 1 else WARM
        return Sampling(usual if self.temperature is None else self.temperature, top_p=self.top_p)

    def check(self) -> None:
        """Raises UserError for a value out of range, or programs that cannot differ."""
        if not self.pass_at or min(self.pass_at) < 1:
            raise UserError(
                f"--pass_at={','.join(map(str, self.pass_at))}: k is a whole number from 1 on, or "
                "several with commas."
            )
        if self.programs < max(self.pass_at):
            raise UserError(
                f"--num_samples={self.programs} is too few for --pass_at={max(self.pass_at)}: "
                "pass@k is estimated from k programs of each problem or more."
            )
        if self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens={self.max_new_tokens} must be at least 1.")
        self.sampling.check()
        if self.sampling.temperature == 0 and self.programs > 1:
            raise UserError(
                f"--temperature=0 always writes the same program, and {self.programs} of each "
                "problem are wanted: leave it out, or ask for --pass_at=1 --num_samples=1."
            )


class Program(NamedTuple):
    """What a model wrote, and how it ended."""

    task_id: str
    prompt: str
    completion: str
    passed: bool
    result: str  # "" | timeout | the end of its standard error


def evaluate_code(
    models: Sequence[str], problems: str, display: Display, options: Options, output: str = "",
    *, allow_code_execution: bool = False,
) -> list[TaskScore]:
    """pass@k of every model on the problems of a file or folder.

    It also goes into the metrics of a model's run directory as `eval/NAME`, NAME being the file's,
    and with `output` into that folder: scores.json, and every program with how it ended in
    samples_NAME.jsonl.

    Raises:
      UserError: running code is not allowed, no sandbox on this machine, no such model or
        problems, several hosts, or an option out of range.
    """
    check_allowed(allow_code_execution)
    options.check()
    if jax.process_count() > 1:
        raise UserError(
            f"--problems runs on one host and this is a job of {jax.process_count()}: start it on "
            "one host with its own devices."
        )
    for name in models:
        if " + " in name:
            raise UserError(
                f"model={name!r}: examples and retrieval are for --tasks; programs are written "
                "after the problem alone. Leave out what follows ' + '."
            )
    asked = read_problems(problems)[: options.limit or None]
    sandbox.run("pass")  # a machine that has none is told before anything is computed
    saved = [find_model(name) for name in models]
    titles = shortest_names([path(name) for name in dict.fromkeys(models)])
    title_of = dict(zip(dict.fromkeys(models), titles, strict=True))
    name, found = path(problems).name.partition(".")[0] or "problems", []  # of the folder "."
    for model, each in zip(models, saved, strict=True):
        title = title_of[model]
        opened = read_model(each, title, display)
        size = f"A batch of batch_size={options.batch_size} programs"
        with naming_memory(size, MEMORY):
            texts = write_programs(opened, asked, options, display)
        programs = _judged(asked, texts, display)
        passed = [[program.passed for program in some] for some in programs]
        some = [
            TaskScore(title, name, metric, score)
            for metric, score in scores(passed, options.pass_at).items()
        ]
        found += some
        made = records(some, {}, opened.model.step)
        if each.run:
            append_records(each.run, made)
        if output:
            write(output, title, made, {
                name: [program._asdict() for some in programs for program in some]
            })
        del opened  # its memory is needed for the next
    return found


def write_programs(
    opened: Opened, problems: Sequence[Problem], options: Options, display: Display
) -> list[list[str]]:
    """`options.programs` continuations of each problem's prompt, always the same ones of a seed.

    Raises:
      UserError: a model that writes no text, or a prompt without room in its context.
    """
    model, tokenizer, rules = opened
    check_batch(model.compute.sharding, options.batch_size, "--batch_size")
    prompts = [problem.prompt for problem in problems]
    ids, limit = check_prompts(
        model.config, tokenizer, prompts, options.max_new_tokens, display.message
    )
    paired = model.config.architecture == "encoder_decoder"
    most = model.config.positions.max_length
    long = sum(len(row) + limit > most for row in ids)
    if long and not paired:
        display.warn(
            f"{long} of {len(ids)} prompts with their {limit} new tokens are longer than the "
            f"context of {most} tokens that the model was made for: lower --max_new_tokens"
        )
    writer = Writer(
        model, tokenizer, rules, batch_size=options.batch_size,
        start_id=start_id(model.config, tokenizer) if paired else 0,
    )
    wanted = [Wanted(row, limit, STOP) for row in ids for _ in range(options.programs)]
    texts, done = [""] * len(wanted), 0
    display.start("writing programs", len(wanted))
    for place, row in writer.write(wanted, options.sampling, seed=options.seed):
        texts[place], done = row.text, done + 1
        if display.live:
            display.update(done)
    n = options.programs
    return [texts[first : first + n] for first in range(0, len(texts), n)]


def _judged(
    problems: Sequence[Problem], texts: Sequence[Sequence[str]], display: Display
) -> list[list[Program]]:
    """Every program, run with its tests."""
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if display.live:
            display.update(done)

    display.start("running programs", sum(map(len, texts)))
    outcomes = judge(
        problems, texts, allow_code_execution=True, told=told,
        workers=min(os.cpu_count() or 1, MOST_AT_ONCE),
    )
    return [
        [
            Program(problem.name, problem.prompt, text, *outcome)
            for text, outcome in zip(some, ended, strict=True)
        ]
        for problem, some, ended in zip(problems, texts, outcomes, strict=True)
    ]
