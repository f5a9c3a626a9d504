"""The modules of a model by every name that a user may know them by.

Here a module is one for all layers, decoder.layers.layer.attention.query; written, "layer" (or
"tail") is left out. In the Hugging Face model of the family each layer has its own,
model.layers.3.self_attn.q_proj. Both spellings come from the family's weight table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxllm.core.errors import UserError, nearest
from jaxllm.models.config import ModelConfig
from jaxllm.models.hf.family import family

STACKS = re.compile(r"\.layers\.(layer|tail)\.")


def written(path: str) -> str:
    """The path as users write it, without the name of the stack."""
    return STACKS.sub(".layers.", path)


@dataclass(frozen=True)
class Module:
    """A module with parameters: what a pattern may name."""

    path: str
    theirs: tuple[str, ...]  # one, or one a layer; () where they have no such module

    def matched(self, pattern: str) -> bool:
        """Whether the pattern, a regex, is for all of a name or its end from a dot on.

        Raises:
          UserError: it is so for some of the layers only.
        """
        if _fits(pattern, written(self.path)):
            return True
        found = [_fits(pattern, name) for name in self.theirs]
        if any(found) and not all(found):
            some = [name for name, fits in zip(self.theirs, found, strict=True) if fits]
            raise UserError(
                f"The pattern {pattern!r} of tune.lora names {some[0]} and not every layer's: the "
                "layers are kept as one, and all of them are tuned alike. Leave the number out: "
                f"{written(self.path)!r}."
            )
        return any(found)


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def modules(config: ModelConfig, params: Iterable[str], layers: Mapping[str, int]) -> list[Module]:
    """The modules of a model whose parameters have these paths.

    `layers` says how many each stack holds, by its path (decoder.layers.layer).
    """
    params = list(params)
    theirs = their_modules(config, set(params), layers)
    paths = dict.fromkeys(path.rpartition(".")[0] for path in params)
    return [Module(path, tuple(theirs[path])) for path in paths]


def their_modules(
    config: ModelConfig, params: set[str], layers: Mapping[str, int]
) -> dict[str, list[str]]:
    """For the path of a module of ours the names that it has there, layer by layer."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in family(config.family).names(config):
        if entry.when and (entry.when[0].replace("*", "layer") in params) != entry.when[1]:
            continue
        for ours in entry.ours:
            places = [(ours, None)]
            if "*" in ours:
                stack = ours.partition(".*")[0]
                whole = layers.get(f"{stack}.layer", 0)
                places = [(ours.replace("*", "layer"), i) for i in range(whole)]
                places += [
                    (ours.replace("*", "tail"), whole + i)
                    for i in range(layers.get(f"{stack}.tail", 0))
                ]
            for path, layer in places:
                name = entry.theirs if layer is None else entry.theirs.format(layer)
                name = name.rpartition(".")[0]
                path = path.rpartition(".")[0]
                if name not in found[path]:
                    found[path].append(name)
    return found


def select(
    among: Iterable[Module], patterns: Iterable[str], field: str, kind: str
) -> list[Module]:
    """The modules that a pattern names, in their order.

    Raises:
      UserError: a pattern names none of them; `kind` says what they are.
    """
    among, chosen = list(among), set()
    for pattern in patterns:
        found = [module.path for module in among if module.matched(pattern)]
        if not found:
            known = sorted({
                end for module in among for name in (written(module.path), *module.theirs[:1])
                for end in (name, name.rpartition(".")[2])
            })
            raise UserError(
                f"{field}: {pattern!r} names {kind}. {nearest(pattern, known, listed=False)} "
                f"There are: {', '.join(sorted({written(m.path) for m in among}))}."
            )
        chosen.update(found)
    return [module for module in among if module.path in chosen]
