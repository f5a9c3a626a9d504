"""Whether a prepared folder is what a command would prepare again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata

from etils import epath

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.data.manifest import Inputs, Manifest
from jaxllm.data.prepare.config import MODULES, PrepareConfig, settings_of, stage_settings
from jaxllm.data.prepare.readers import InputFile
from jaxllm.data.prepare.units import Unit, survey
from jaxllm.data.tokenizers import Tokenizer

# Whose releases may read, judge or encode a text otherwise.
LIBRARIES = ("ftfy", "lingua-language-detector", "sentencepiece", "tokenizers", "trafilatura")


def inputs_of(files: Sequence[InputFile], digests: Iterable[str], beside: str) -> Inputs:
    """What the manifest says of the input; `digests` are the sha256 of its units, `beside` is what
    beside_digest gives."""
    listing = json.dumps([[file.name, file.bytes] for file in files])
    return Inputs(
        len(files), sum(file.bytes for file in files),
        hashlib.sha256(listing.encode()).hexdigest(),
        hashlib.sha256("".join(digests).encode()).hexdigest(), beside,
    )


def beside_digest(config: PrepareConfig) -> str:
    """What the stages read beside the input: evaluation sets, lists of words; "" for nothing.

    Raises:
      UserError: it cannot be read.
    """
    found = {}
    for name in config.stages:
        if of_stage := getattr(MODULES[name], "digest", None):
            found[name] = of_stage(stage_settings(config, name))
    if not any(found.values()):
        return ""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def versions() -> list[str]:
    """Of Python, whose Unicode tables grow, and of the libraries: half of a corpus is not to be
    prepared by one release and half by the next."""
    found = [platform.python_version()]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def check(
    manifest: Manifest, config: PrepareConfig, files: Sequence[InputFile], units: Iterable[Unit],
    tokenizer: Tokenizer | None, folder: epath.Path, display: Display,
) -> None:
    """Refuses to go on in a folder that was prepared from something else.

    Raises:
      UserError: with what was changed.
    """
    changed = _changed_settings(manifest, settings_of(config))
    listed = inputs_of(files, [], beside_digest(config))
    if not changed and manifest.inputs.digest != listed.digest:
        changed = [
            f"the input was {manifest.inputs.files} files of {manifest.inputs.bytes:,} bytes and "
            f"is {listed.files} of {listed.bytes:,}, or files were renamed"
        ]
    if not changed and manifest.inputs.beside != listed.beside:
        changed = ["what a stage reads beside the input (evaluation sets, a list of words) changed"]
    if not changed:
        with display.phase("comparing the input"):
            digests = (survey(unit)[0] for unit in units)
            if inputs_of(files, digests, listed.beside) != manifest.inputs:
                changed = ["the text of the input files was changed, at equal sizes"]
    if not changed and tokenizer and tokenizer.hash != manifest.tokenizer.hash:
        changed = [f"the tokenizer in {config.tokenizer.path} is another one now"]
    if changed:
        raise UserError(
            f"{folder} was prepared with other settings: {'; '.join(changed[:4])}. Choose another "
            "--workdir, or add --overwrite to replace the data (runs that trained on it can then "
            "not be resumed)."
        )


def _changed_settings(manifest: Manifest, settings: dict) -> list[str]:
    # a manifest from before a field was added means its default
    usual = json.loads(json.dumps(dataclasses.asdict(PrepareConfig())))
    changed = []
    for section in {**manifest.settings, **settings}:
        old, new = manifest.settings.get(section), settings.get(section)
        if not isinstance(new, dict) or not isinstance(old, dict):
            if old != new and section == "stages":
                changed.append(f"stages was {tuple(old or ())} and is {tuple(new)}")
            continue
        old = {**usual.get(section, {}), **old}
        changed += [
            f"{section}.{name} was {value!r} and is {new.get(name)!r}"
            for name, value in old.items() if new.get(name) != value
        ]
    return changed
