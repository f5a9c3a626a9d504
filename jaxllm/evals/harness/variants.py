"""What an entry of `--model` and `--compare` means: a model, and what is put before its questions.

`RUN + 5-shot similar` is shown five examples, `RUN + retrieval` passages of a collection of text:
the baselines that no parameter is tuned for. Both may be given: `RUN + 5-shot + retrieval`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jaxllm.core.errors import UserError, nearest

SIMILAR = "similar"
KINDS = ("fixed", "random", SIMILAR)
RETRIEVAL = "retrieval"
_SHOTS = re.compile(r"(?P<count>\d+)-shot(?:\s+(?P<kind>\S+))?")


class Variant(NamedTuple):
    """A model and what it is shown before a question."""

    model: str
    count: int = -1  # examples; -1: as the other settings say
    kind: str = ""  # of the examples; "": as the task says
    retrieval: bool = False  # whether passages are looked up

    @property
    def suffix(self) -> str:
        """What tells it from the model alone."""
        shots = f" + {self.count}-shot {self.kind}".rstrip() if self.count >= 0 else ""
        return shots + (f" + {RETRIEVAL}" if self.retrieval else "")


def variant(name: str) -> Variant:
    """What an entry means.

    Raises:
      UserError: something other than a number of examples or `retrieval` follows " + ", or one of
        them twice.
    """
    model, *parts = re.split(r"\s+\+\s+", name.strip())
    found = Variant(model)
    for part in parts:
        shots = _SHOTS.fullmatch(part)
        if part == RETRIEVAL and not found.retrieval:
            found = found._replace(retrieval=True)
        elif shots and found.count < 0:
            kind = shots["kind"] or ""
            if kind not in ("", *KINDS):
                raise UserError(
                    f"model={name!r}: {kind!r} examples are unknown. {nearest(kind, KINDS)}"
                )
            found = found._replace(count=int(shots["count"]), kind=kind)
        else:
            raise UserError(
                f"model={name!r}: after ' + ' comes, once each, a number of examples, such as "
                f"'5-shot' or '5-shot similar' (or {', '.join(KINDS)}), or {RETRIEVAL!r}, not "
                f"{part!r}."
            )
    return found
