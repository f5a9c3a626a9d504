"""What data tests prepare, and how."""

import io
import random

from jaxllm.core.display import Display
from jaxllm.data.prepare.config import PrepareConfig, default_config, resolve_config
from jaxllm.data.prepare.pipeline import prepare

WORDS = [
    "the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "past", "seven", "quiet",
    "houses", "by", "river", "dawn",
]


def make_config(paths, **fields) -> PrepareConfig:
    """A preparation of `paths` with fields such as stages=("exact",) or split__by="position"."""
    config = default_config()
    config.input.paths = tuple(str(path) for path in paths)
    for name, value in fields.items():
        section, _, field = name.partition("__")
        if field:
            config[section][field] = value
        else:
            config[section] = value
    return resolve_config(config)


def quiet() -> Display:
    """A display that nobody sees."""
    return Display(io.StringIO())


def run_prepare(folder, paths, overwrite=False, **fields):
    """Prepares `paths` into `folder`; gives the manifest."""
    return prepare(make_config(paths, **fields), folder, quiet(), overwrite)


def sentences(count: int, seed: int) -> list[str]:
    """Documents of 1 to 40 words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) + "." for _ in range(count)]
