"""Fine-tuning of a part: adapters, frozen parameters, quantised bases. Imports no jax."""

from __future__ import annotations

from typing import Any

from jaxllm.core.errors import UserError, nearest
from jaxllm.models.adapters.config import AdapterConfig, compiled


def trained(specs: dict[str, Any], adapter: AdapterConfig) -> dict[str, Any]:
    """Which parameters train: True or False for each ParamSpec of the tree.

    What adapters leave frozen says its ParamSpec; `adapter.freeze` comes on top.

    Raises:
      UserError: a regex of `adapter.freeze` matches nothing, or together they match everything.
    """
    regexes = [(regex, compiled(regex, "tune.freeze")) for regex in adapter.freeze]
    paths: list[str] = []
    matched: set[str] = set()

    def walk(node: Any, prefix: str) -> Any:
        if isinstance(node, dict):
            return {name: walk(child, f"{prefix}{name}.") for name, child in node.items()}
        path = prefix[:-1]
        paths.append(path)
        found = [regex for regex, pattern in regexes if pattern.fullmatch(path)]
        matched.update(found)
        return node.trained and not found

    result = walk(specs, "")
    for regex, _ in regexes:
        if regex not in matched:
            raise UserError(
                f"tune.freeze: {regex!r} matches no parameter; a regex is for a whole path. "
                f"{nearest(regex, paths)}"
            )
    if regexes and not any(_leaves(result)):
        raise UserError(
            f"tune.freeze={adapter.freeze} leaves nothing to train. Narrow the patterns: they are "
            f"for whole paths, such as {paths[0]!r}."
        )
    return result


def _leaves(tree: Any) -> list[bool]:
    if isinstance(tree, dict):
        return [leaf for child in tree.values() for leaf in _leaves(child)]
    return [tree]
