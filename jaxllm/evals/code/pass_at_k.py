"""pass@k: the chance that one of k programs passes a problem's tests (Chen et al. 2021).

https://arxiv.org/abs/2107.03374: of n programs of a problem c pass, and pass@k is estimated without
bias as 1 - C(n - c, k) / C(n, k), averaged over the problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxllm.core.errors import UserError
from jaxllm.evals import bootstrap
from jaxllm.evals.code import sandbox

SAMPLES = "prompt", "test", "entry_point"  # columns of HumanEval


@dataclass(frozen=True)
class Problem:
    """A prompt that programs continue, and the tests that they have to pass."""

    prompt: str
    test: str  # source that follows the program and ends without an error where it is right

    @classmethod
    def of_humaneval(cls, row: Mapping[str, str]) -> Problem:
        """A row of HumanEval.

        Raises:
          UserError: a column is missing.
        """
        if missing := [name for name in SAMPLES if name not in row]:
            raise UserError(
                f"A problem lacks {missing[0]!r}: HumanEval's rows have {', '.join(SAMPLES)}."
            )
        return cls(row["prompt"], f"{row['test']}\ncheck({row['entry_point']})")


def pass_at_k(
    problems: Sequence[Problem], completions: Sequence[Sequence[str]], ks: Sequence[int] = (1,), *,
    allow_code: bool = False, seconds: int = sandbox.SECONDS, workers: int = 1,
) -> dict[str, bootstrap.Score]:
    """`pass@k` for each k, with bootstrap intervals over the problems.

    `completions` are several programs for each problem, as the text that follows its prompt.
    `allow_code` has to be set: the programs are run, in a sandbox, `workers` at once.

    Raises:
      UserError: `allow_code` is not set, fewer programs than k, or no sandbox on this machine.
    """
    if not allow_code:
        raise UserError(
            "pass@k runs the programs that a model wrote. Set allow_code=True if that is meant: "
            "they run in a sandbox without a network."
        )
    if len(problems) != len(completions) or not problems:
        raise UserError(
            f"There are {len(problems)} problems and programs for {len(completions)}: give one or "
            "more programs for each problem."
        )
    if min(map(len, completions)) < max(ks) or min(ks) < 1:
        raise UserError(
            f"k={max(ks)} needs as many programs of each problem, and one has "
            f"{min(map(len, completions))}; k is at least 1."
        )
    programs = [
        f"{problem.prompt}{text}\n{problem.test}"
        for problem, some in zip(problems, completions, strict=True) for text in some
    ]
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(lambda text: sandbox.run(text, seconds=seconds), programs))
    passed = iter(outcome.passed for outcome in outcomes)
    right = [sum(next(passed) for _ in some) for some in completions]
    rows = [
        [*(estimate(len(some), c, k) for k in ks), 1.0]
        for some, c in zip(completions, right, strict=True)
    ]
    return bootstrap.scores(
        np.asarray(rows), lambda s: {f"pass@{k}": s[:, i] / s[:, -1] for i, k in enumerate(ks)}
    )


def estimate(n: int, c: int, k: int) -> float:
    """The chance that k of n programs, of which c pass, have one that passes."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
