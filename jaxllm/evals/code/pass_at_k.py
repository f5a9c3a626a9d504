"""pass@k: the chance that one of k programs passes a problem's tests (Chen et al. 2021).

https://arxiv.org/abs/2107.03374: of n programs of a problem c pass, and pass@k is estimated without
bias as 1 - C(n - c, k) / C(n, k), averaged over the problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.evals import bootstrap
from jaxllm.evals.code import sandbox
from jaxllm.evals.code.problems import Problem

Told = Callable[[int], None]  # how many more programs are done


def pass_at_k(
    problems: Sequence[Problem], completions: Sequence[Sequence[str]], ks: Sequence[int] = (1,), *,
    allow_code_execution: bool = False, seconds: int = sandbox.SECONDS, workers: int = 1,
) -> dict[str, bootstrap.Score]:
    """`pass@k` for each k, with bootstrap intervals over the problems; see `judge` and `scores`.

    Raises:
      UserError: code may not be run, fewer programs than k, or no sandbox on this machine.
    """
    if completions:
        check_ks(ks, min(map(len, completions)))
    outcomes = judge(
        problems, completions, allow_code_execution=allow_code_execution, seconds=seconds,
        workers=workers,
    )
    return scores([[outcome.passed for outcome in some] for some in outcomes], ks)


def judge(
    problems: Sequence[Problem], completions: Sequence[Sequence[str]], *,
    allow_code_execution: bool = False, seconds: int = sandbox.SECONDS, workers: int = 1,
    told: Told | None = None,
) -> list[list[sandbox.Outcome]]:
    """How each program ended with its problem's tests after it.

    `completions` are several programs for each problem, as the text that follows its prompt.
    `allow_code_execution` has to be set: the programs are run, in a sandbox, `workers` at once.

    Raises:
      UserError: code may not be run, or no sandbox on this machine.
    """
    check_allowed(allow_code_execution)
    if len(problems) != len(completions) or not problems:
        raise UserError(
            f"There are {len(problems)} problems and programs for {len(completions)}: give one or "
            "more programs for each problem."
        )
    programs = [
        f"{problem.prompt}{text}\n{problem.test}"
        for problem, some in zip(problems, completions, strict=True) for text in some
    ]
    outcomes = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(partial(sandbox.run, seconds=seconds), programs):
            outcomes.append(outcome)
            if told:
                told(1)
    ended = iter(outcomes)
    return [[next(ended) for _ in some] for some in completions]


def scores(
    passed: Sequence[Sequence[bool]], ks: Sequence[int] = (1,)
) -> dict[str, bootstrap.Score]:
    """`pass@k` for each k, of which programs of each problem passed.

    Raises:
      UserError: fewer programs than k.
    """
    check_ks(ks, min(map(len, passed)))
    rows = [[*(estimate(len(some), sum(some), k) for k in ks), 1.0] for some in passed]
    return bootstrap.scores(
        np.asarray(rows), lambda s: {f"pass@{k}": s[:, i] / s[:, -1] for i, k in enumerate(ks)}
    )


def check_allowed(allow_code_execution: bool) -> None:
    """Raises UserError unless running what a model writes is meant."""
    if not allow_code_execution:
        raise UserError(
            "pass@k runs the programs that the models write, on this machine: each in a sandbox "
            "without a network, with limits of time and memory, that can change files only in its "
            "own temporary folder, but can read what you can read. If that is meant, add "
            "--allow_code_execution (allow_code_execution=True)."
        )


def check_ks(ks: Sequence[int], programs: int) -> None:
    """Raises UserError for a k that so many programs of a problem say nothing about."""
    if programs < max(ks) or min(ks) < 1:
        raise UserError(
            f"k={max(ks)} needs as many programs of each problem, and one has {programs}; k is at "
            "least 1."
        )


def estimate(n: int, c: int, k: int) -> float:
    """The chance that k of n programs, of which c pass, have one that passes."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
