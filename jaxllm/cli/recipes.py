"""`--config=FILE[:variant]`: runs the recipe, and says where it went wrong if it did.

A mistake in a recipe is the user's like one on the command line: one paragraph, no traceback.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxllm.core.config import to_config_dict
from jaxllm.core.errors import UserError, nearest
from jaxllm.data.config import SourceConfig
from jaxllm.data.prepare.config import READ, TokenizerConfig

# The verb that a recipe is for: a section that only its recipes have, and where they lie.
KINDS = {"prepare": ("input", "configs/data"), "train": ("train", "configs")}
OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=|$)")


def load_recipe(argument: str, kind: str) -> ConfigDict:
    """What `get_config` of FILE[:variant] gives; `kind` is the verb that the recipe must be for.

    Raises:
      UserError: there is no such file, it fails, or it is a recipe for the other verb.
    """
    file, _, variant = argument.partition(":")
    if not os.path.isfile(file):
        near = {*Path("configs").glob("**/*.py"), *Path(file).parent.glob("*.py")}
        here = (
            f"Recipes are looked for from the current folder, {os.getcwd()}, which has none: "
            "change into the project's folder, or name the file by its whole path."
        )
        raise UserError(
            f"--config={argument}: there is no such recipe file. "
            f"{nearest(file, map(str, near)) if near else here}"
        )
    try:
        spec = importlib.util.spec_from_file_location("jaxllm_recipe", os.path.abspath(file))
        if spec is None:
            raise UserError("It is no recipe: a recipe is a Python file, NAME.py.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        recipe = module.get_config(variant) if variant else module.get_config()
    except UserError as error:
        raise UserError(f"--config={argument}: {error}") from error
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}{_reason(error)}".split())
        raise UserError(f"The recipe {file}{_line(error, file)} fails: {reason}") from error
    if not isinstance(recipe, ConfigDict):
        raise UserError(
            f"The recipe {file}: get_config() returned {type(recipe).__name__}, not a ConfigDict. "
            "Begin with default_config() and end with `return config`."
        )
    _check_kind(recipe, argument, kind)
    return recipe


def add_sources(recipe: ConfigDict, argv: Sequence[str]) -> None:
    """Adds the sources that `--config.data.mixture.NAME.path=DIR` names to the recipe's mixture,
    and to those that it has the fields that the command line sets."""
    if "mixture" not in recipe.get("data", {}):
        return
    sources, usual = recipe.data.mixture, to_config_dict(SourceConfig())
    for field in overrides(argv):
        match = re.match(r"data\.mixture\.(\w+)\.(\w+)", field)
        if not match:
            continue
        name, first = match.groups()
        if name not in sources and f"data.mixture.{name}.path" in overrides(argv):
            sources[name] = {"path": usual.path, "weight": usual.weight}
        if name in sources and first in usual and first not in sources[name]:
            sources[name][first] = usual[first]


def give_way(recipe: ConfigDict, argv: Sequence[str]) -> None:
    """What a recipe says of training a tokenizer gives way to `--config.tokenizer.path=FOLDER`, and
    what is then not read to `--config.tokenizer.kind=KIND` and `--config.eval.prompts="()"`."""
    if "eval" in recipe and _given("eval.prompts", argv) == "()":
        from jaxllm.train.config import EvalConfig

        recipe.eval.sample_tokens = EvalConfig.sample_tokens
    section = recipe.get("tokenizer", {})
    if "train_characters" not in section:  # that of `jaxllm prepare` has it
        return
    usual, kind = to_config_dict(TokenizerConfig()), _given("tokenizer.kind", argv)
    if _given("tokenizer.path", argv):
        section.update(usual)
    elif kind in READ:
        section.update({name: usual[name] for name in usual if name not in {*READ[kind], "path"}})


def check_fields(recipe: ConfigDict, argv: Sequence[str]) -> None:
    """Refuses an override of a field that the recipe does not have.

    Raises:
      UserError: with the nearest name, or the fields of that section.
    """
    for field in overrides(argv):
        section, where = recipe, []
        for name in re.sub(r"\[.*", "", field).split("."):
            if not isinstance(section, ConfigDict):
                raise UserError(
                    f"--config.{field} is no known field: {'.'.join(where)} is a value, which has "
                    f"no fields. Set --config.{'.'.join(where)}=VALUE."
                )
            if name not in section:
                raise UserError(f"--config.{field} is no known field. {_fix(name, section, where)}")
            section = section[name]
            where.append(name)


def overrides(argv: Sequence[str]) -> list[str]:
    """The dotted fields that the arguments override, in their order."""
    return [match[1] for argument in argv if (match := OVERRIDE.match(argument))]


def as_defaults(argv: Sequence[str], changed: Collection[str]) -> list[str]:
    """The fields that the arguments give the value that they have anyway.

    They are not among those `changed` from the defaults, and would seem to be lost.
    """
    given = dict.fromkeys(re.sub(r"\[.*", "", name) for name in overrides(argv))
    return [name for name in given if name not in changed]


def _given(field: str, argv: Sequence[str]) -> str:
    """The value that the arguments give a field last; "": none."""
    value = ""
    for argument, following in zip(argv, (*argv, "")[1:], strict=True):
        match = re.fullmatch(rf"--?config\.{re.escape(field)}(?:=(.*))?", argument, re.DOTALL)
        if match:
            value = following if match[1] is None else match[1]
    return value


def _fix(name: str, section: ConfigDict, where: list[str]) -> str:
    if where == ["data", "mixture"]:
        there = ", ".join(sorted(section)) or "no source"
        return (
            f"The recipe's mixture has {there}. Another source is added by its folder, "
            f"--config.data.mixture.{name}.path=FOLDER."
        )
    return nearest(name, section)


def _check_kind(recipe: ConfigDict, argument: str, kind: str) -> None:
    own, folder = KINDS[kind]
    other = next((k for k, (section, _) in KINDS.items() if k != kind and section in recipe), None)
    if own not in recipe and other:
        raise UserError(
            f"--config={argument} is a recipe for `jaxllm {other}`; this verb takes one for "
            f"`jaxllm {kind}`, such as those in {folder}/."
        )


def _reason(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error).strip().rstrip(".") + "."
    return text if text == "." else f": {text}"


def _line(error: BaseException, file: str) -> str:
    """ line N, the place in the recipe that was reached; nothing when it was none of its lines."""
    place = os.path.abspath(file)
    if isinstance(error, SyntaxError) and error.filename == place:
        return f" line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == place]
    return f" line {lines[-1]}" if lines else ""
