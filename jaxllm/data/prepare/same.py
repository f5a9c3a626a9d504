"""Whether a prepared folder is what a command would prepare again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence

from etils import epath

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.data.manifest import Inputs, Manifest
from jaxllm.data.prepare.config import PrepareConfig, settings_of
from jaxllm.data.prepare.readers import InputFile
from jaxllm.data.prepare.units import Unit, survey
from jaxllm.data.tokenizers import Tokenizer


def inputs_of(files: Sequence[InputFile], digests: Iterable[str]) -> Inputs:
    """What the manifest says of the input; `digests` are the sha256 of its units."""
    listing = json.dumps([[file.name, file.bytes] for file in files])
    return Inputs(
        len(files), sum(file.bytes for file in files),
        hashlib.sha256(listing.encode()).hexdigest(),
        hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def evaluation_digest(config: PrepareConfig) -> str:
    """What the evaluation sets hold that the text is kept clear of; "" where there are none.

    Raises:
      UserError: a set cannot be read.
    """
    if "decontaminate" not in config.stages:
        return ""
    from jaxllm.data.prepare.evaluations import decontaminate

    return decontaminate.load(config.decontaminate).digest


def check(
    manifest: Manifest, config: PrepareConfig, files: Sequence[InputFile], units: Iterable[Unit],
    tokenizer: Tokenizer | None, folder: epath.Path, display: Display,
) -> None:
    """Refuses to go on in a folder that was prepared from something else.

    Raises:
      UserError: with what was changed.
    """
    changed = _changed_settings(manifest, settings_of(config))
    listed = inputs_of(files, [])
    if not changed and manifest.inputs.digest != listed.digest:
        changed = [
            f"the input was {manifest.inputs.files} files of {manifest.inputs.bytes:,} bytes and "
            f"is {listed.files} of {listed.bytes:,}, or files were renamed"
        ]
    if not changed:
        with display.phase("comparing the input"):
            if inputs_of(files, (survey(unit)[0] for unit in units)) != manifest.inputs:
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
