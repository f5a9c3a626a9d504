"""Libraries that only evaluation needs: the extra `eval`, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from jaxllm.core.errors import UserError, install


def need(module: str, what: str, library: str = "") -> ModuleType:
    """The module of the extra `eval` that `what` needs.

    Raises:
      UserError: its library is not installed; the message says how it is installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.partition(".")[0]):
            raise
        raise UserError(
            f"{what} needs the library {library or module.partition('.')[0]}, which is not "
            f"installed. {install('eval')}"
        ) from error
