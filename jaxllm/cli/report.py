"""jaxllm report: writes one offline HTML page about a run, or about several beside each other.

  jaxllm report RUN [RUN …] [--output=FILE]

RUN is a run directory (the --workdir of `jaxllm train`), or what `jaxllm plan --output` wrote. The
page goes to report.html in the last of them unless --output names another file. With two runs its
tables show what changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from jaxllm.cli.flags import parse
from jaxllm.core.errors import EXIT_DONE, UserError
from jaxllm.report.page import write_report


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns the exit code."""
    runs = [argument for argument in argv if not argument.startswith("-")]
    options = [argument for argument in argv if argument.startswith("-")]
    _, values = parse(options, __doc__, _define, config=False, workdir=False)
    if not runs:
        raise UserError("Name a run directory. For example: jaxllm report runs/quickstart/base.")
    print(f"Wrote {write_report(runs, values['output'].value)}")
    return EXIT_DONE


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output", None, "HTML file to write; report.html in the last RUN if not given.",
        flag_values=values,
    )
