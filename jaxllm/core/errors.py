"""The two ways a command ends on purpose, and the wording that leads a user to the nearest fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def nearest(name: str, choices: Iterable[str]) -> str:
    """A did-you-mean sentence for `name`, or the list of choices when none is close.

    Initials are close too: lr is learning_rate.
    """
    names = sorted(set(choices))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not close and len(name) > 1:
        close = [n for n in names if "".join(word[:1] for word in n.split("_")) == name]
    if close:
        return f"Did you mean {' or '.join(repr(c) for c in close)}?"
    shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return f"Choose one of: {shown}." if names else "There is none to choose from."


def unknown(field: str, name: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`."""
    return UserError(f"{field}={name!r} is unknown. {nearest(str(name), choices)}")
