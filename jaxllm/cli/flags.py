"""Flags of a verb: `--config=FILE[:variant]` with overrides, `--workdir`, and the verb's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from jaxllm.cli.recipes import add_sources, check_fields, give_way, load_recipe
from jaxllm.core.config import INT32
from jaxllm.core.errors import UserError, nearest


def parse(
    argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None] | None = None,
    *, config: bool = True, workdir: bool = True, kind: str = "train",
) -> tuple[ConfigDict | None, flags.FlagValues]:
    """The recipe's ConfigDict (None without `config`) and the flag values.

    Args:
      argv: the arguments after the verb.
      doc: what `--help` prints before the flags.
      define: adds the verb's own flags to the FlagValues.
      kind: the verb whose recipes this one takes, train or prepare.

    Raises:
      UserError: an unknown flag, a bad value, a required flag that is missing, or a recipe that
        fails.
    """
    values = flags.FlagValues()
    if workdir:
        flags.DEFINE_string("workdir", None, "Directory to write to.", flag_values=values)
    if define:
        define(values)
    if "--help" in argv or "-h" in argv:
        print(f"{doc.strip()}\n\nFlags:\n{_usage(values, config)}")
        raise SystemExit(0)
    _check_names(argv, values, config)
    recipe = None
    if config:
        named, argv = _split_config(argv)
        if not named:
            raise missing("config")
        recipe = load_recipe(named, kind)
        add_sources(recipe, argv)
        give_way(recipe, argv)
        check_fields(recipe, argv)
    try:
        if config:
            config_flags.DEFINE_config_dict(
                "config", recipe, flag_values=values, sys_argv=["jaxllm", *argv]
            )
        rest = values(["jaxllm", *argv])[1:]
        recipe = values["config"].value if config else None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_explain(error, values)) from error
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}: write --flag=value.")
    _check_sizes(values)
    if workdir:
        required(values, "workdir")
    return recipe, values


def required(values: flags.FlagValues, name: str):
    """The value of a flag that must be given.

    Raises:
      UserError: it was not.
    """
    value = values[name].value
    if not value:
        raise missing(name)
    return value


def topology(argv: Sequence[str], flag: str) -> str:
    """The slice that `--topology` names, or else the recipe's variant where that is a slice's."""
    variant = _split_config(argv)[0].partition(":")[2]
    return flag or (variant if re.search(r"[-:]\d", variant) else "")


def missing(name: str) -> UserError:
    """The error for a required flag that was not given."""
    return UserError(f"--{name} is missing. For example: {EXAMPLES[name]}.")


EXAMPLES = {
    "model": "--model=runs/first",
    "data": "--data=data/general",
    "prompt": '--prompt="Once upon a time"',
    "config": "--config=configs/quickstart.py",
    "workdir": "--workdir=runs/first",
    "output": "--output=runs/imported",
    "topology": "--topology=v5p-128",
    "goal": "--goal=classify",
    "prompts": "--prompts=prompts.jsonl",
}


WANTED = {  # what a flag's value must be, by what reads it
    flags.IntegerParser: "a whole number",
    flags.FloatParser: "a number",
    flags.BooleanParser: "True or False",
    tuple_parser.TupleParser: "a tuple, such as \"('a', 'b')\"",
}


def _check_names(argv: Sequence[str], values: flags.FlagValues, config: bool) -> None:
    known = [*values, *(["config"] if config else [])]
    for argument in argv:
        match = re.match(r"--?([A-Za-z0-9_]+)(\.|=|$)", argument)
        if not match:
            continue
        name = match[1]
        there = name in known or (name.startswith("no") and name[2:] in values)
        if not there or (match[2] == "." and not (config and name == "config")):
            raise UserError(f"--{name} is no flag of this verb. "
                            f"{nearest('--' + name, [f'--{one}' for one in known])}")


# The range of the verbs' own whole numbers that are not int32.
RANGES = {"seed": (0, 2**32 - 1), "shard_bytes": (-INT32, 2**63 - 1)}


def _check_sizes(values: flags.FlagValues) -> None:
    """Refuses numbers that no device holds; those of the recipe's fields are checked with it."""
    for name in values:
        flag = values[name]
        own = isinstance(flag.parser, flags.IntegerParser) and not name.startswith("config.")
        if own and flag.value is not None:
            least, most = RANGES.get(name, (-INT32, INT32))
            if not least <= flag.value <= most:
                raise UserError(f"--{name}={flag.value} must lie between {least} and {most}.")


def _split_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe that is named last ("": none), and the other arguments."""
    named, rest, items = "", [], iter(argv)
    for argument in items:
        match = re.fullmatch(r"--?config(=(.*))?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
        else:
            named = match[2] if match[1] else next(items, "")
    return named, rest


def _usage(values: flags.FlagValues, config: bool) -> str:
    lines = []
    if config:
        lines.append(
            "  --config: Recipe FILE[:variant]; --config.section.field=value overrides."
        )
    for name in values:
        flag = values[name]
        help_text = flag.help.partition(";\n")[0]  # absl's own sentence about repeating it
        default = "" if flag.default in (None, [], "") else f" (default: {flag.default})"
        switch = f"[no]{name}" if flag.boolean else name
        lines.append(f"  --{switch}: {help_text}{default}")
    return "\n".join(lines)


def _explain(error: Exception, values: flags.FlagValues) -> str:
    """The error of absl or ml_collections in our words, where a value is of another type."""
    text = " ".join(str(error).split())
    match = re.match(r"flag --([\w.\[\]]+)=(.*?): ", text)
    if match and match[1] in values:
        name, value = match[1], match[2]
        parser = values[name].parser
        wanted = next((w for kind, w in WANTED.items() if isinstance(parser, kind)), None)
        if wanted and not _converts(parser, value):
            field = name.removeprefix("config.")
            return f"--{name}={value}: {field} wants {wanted}, not {value!r}."
    return text if text.endswith((".", "?", "!")) else text + "."


def _converts(parser: flags.ArgumentParser, value: str) -> bool:
    """Whether only the size of a number is wrong."""
    kind = {flags.IntegerParser: int, flags.FloatParser: float}.get(type(parser))
    try:
        return kind is not None and kind(value) is not None
    except ValueError:
        return False
