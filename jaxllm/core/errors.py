"""The two ways a command ends on purpose, and the wording that leads a user to the nearest fix."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER_ERROR = 2
EXIT_RESUMABLE = 3


class UserError(Exception):
    """A mistake that the user can mend: shown as one paragraph without a traceback, exit code 2.

    The message names the field or file, the value, the reason and the nearest fix.
    """


class Interrupted(Exception):
    """The run stopped on purpose after saving its state: exit code 3, the same command resumes."""


CLOSE = 0.6  # of difflib's ratio, from which a name may be what was meant


def nearest(name: str, choices: Iterable[str], *, listed: bool = True) -> str:
    """A did-you-mean sentence for `name`; when none is close the list of choices, or "".

    Initials are close too: lr is learning_rate. Case does not matter.
    """
    names = sorted(set(choices))
    folded: dict[str, list[str]] = {}
    for choice in names:
        folded.setdefault(choice.casefold(), []).append(choice)
    if name.casefold() in folded:
        return f"Did you mean {' or '.join(map(repr, folded[name.casefold()]))}?"
    found = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=CLOSE)
    close = [choice for fold in found for choice in folded[fold]][:3]
    if not close and len(name) > 1:
        close = [n for n in names if "".join(word[:1] for word in n.split("_")) == name]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    if not listed:
        return ""
    shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return f"Choose one of: {shown}." if names else "There is none to choose from."


def unknown(field: str, name: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`."""
    return UserError(f"{field}={name!r} is unknown. {nearest(str(name), choices)}")


def install(extra: str) -> str:
    """The sentence that says how an extra of the package is installed, in a checkout too."""
    return (
        f"Install it with: pip install 'jaxllm[{extra}]', or in a checkout: "
        f"JAXLLM_EXTRAS={extra} source launch/env.sh"
    )


@contextlib.contextmanager
def naming_memory(what: str, fix: str) -> Iterator[None]:
    """Turns a device or a host that is out of memory into a UserError: `what` was too large.

    Raises:
      UserError: for jax's RESOURCE_EXHAUSTED and Python's MemoryError.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # jax's own error is a RuntimeError
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split()).partition("RESOURCE_EXHAUSTED: ")[2][:160]
        raise UserError(
            f"{what} does not fit the memory{f' ({reason})' if reason else ''}. {fix}"
        ) from error
