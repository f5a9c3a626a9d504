"""Flags of a verb: `--config=FILE[:variant]` with overrides, `--workdir`, and the verb's own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxllm.core.errors import UserError, nearest


def parse(
    argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None] | None = None,
    *, config: bool = True, workdir: bool = True,
) -> tuple[ConfigDict | None, flags.FlagValues]:
    """The recipe's ConfigDict (None without `config`) and the flag values.

    Args:
      argv: the arguments after the verb.
      doc: what `--help` prints before the flags.
      define: adds the verb's own flags to the FlagValues.

    Raises:
      UserError: an unknown flag, a bad value, or a required flag that is missing.
    """
    values = flags.FlagValues()
    if config:
        config_flags.DEFINE_config_file(
            "config", None, "Recipe FILE[:variant]; --config.section.field=value overrides.",
            flag_values=values, sys_argv=["jaxllm", *argv],
        )
    if workdir:
        flags.DEFINE_string("workdir", None, "Directory to write to.", flag_values=values)
    if define:
        define(values)
    if "--help" in argv or "-h" in argv:
        print(f"{doc.strip()}\n\nFlags:\n{_usage(values)}")
        raise SystemExit(0)
    _check_names(argv, values, config)
    try:
        rest = values(["jaxllm", *argv])[1:]
        recipe = values["config"].value if config else None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_explain(error, argv)) from error
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}: write --flag=value.")
    for name, wanted in (("config", config), ("workdir", workdir)):
        if wanted:
            required(values, name)
    return recipe, values


def required(values: flags.FlagValues, name: str):
    """The value of a flag that must be given.

    Raises:
      UserError: it was not.
    """
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing. For example: {EXAMPLES[name]}.")
    return value


EXAMPLES = {
    "model": "--model=runs/first",
    "data": "--data=data/general",
    "prompt": '--prompt="Once upon a time"',
    "config": "--config=configs/quickstart.py",
    "workdir": "--workdir=runs/first",
}


def _check_names(argv: Sequence[str], values: flags.FlagValues, config: bool) -> None:
    for argument in argv:
        file = re.match(r"--?config=([^:]*)", argument)
        if config and file and not os.path.isfile(file[1]):
            near = [str(recipe) for recipe in Path("configs").glob("**/*.py")]
            raise UserError(f"{argument}: there is no such recipe file. {nearest(file[1], near)}")
        match = re.match(r"--?([A-Za-z0-9_]+)(\.|=|$)", argument)
        if not match:
            continue
        name = match[1]
        known = name in values or (name.startswith("no") and name[2:] in values)
        if not known or (match[2] == "." and not (config and name == "config")):
            raise UserError(f"--{name} is no flag of this verb. {nearest(name, list(values))}")


def _usage(values: flags.FlagValues) -> str:
    lines = []
    for name in values:
        flag = values[name]
        default = "" if flag.default is None else f" (default: {flag.default})"
        lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)


def _explain(error: Exception, argv: Sequence[str]) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (AttributeError, KeyError)):  # ml_collections on a key it has not got
        name = (re.findall(r"\w+", str(error).replace("\\n", " ")) or [""])[0]
        near = re.findall(r'"(\w+)" instead', str(error))
        field = next((a.split("=")[0] for a in argv if name in a.split("=")[0].split(".")), name)
        return f"{field} is no known field." + (f" Did you mean {near[0]!r}?" if near else "")
    return text if text.endswith((".", "?", "!")) else text + "."
