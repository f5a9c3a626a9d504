"""Reports imports that break the layering of the package; exit code 1 if there is one.

A package imports only from layers below its own. flax stays in one file, so that a change of
module system touches one file; preparing data never loads jax, so that it runs on machines that
have no accelerator and starts at once.

  python tools/check_imports.py
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "jaxllm"
LAYERS = (
    {"core"},
    {"samples"},
    {"data", "nn"},
    {"models"},
    {"train", "generate"},
    {"rl", "evals", "plan"},
    {"report"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FLAX_FILE = "nn/module.py"
JAX_FREE = (
    "data/prepare/", "data/perturb/", "data/tokenizers/", "core/config.py", "core/display.py",
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def check(root: Path = ROOT) -> list[str]:
    """The broken rules as "file:line: what is wrong", in the order of the files."""
    package = root / PACKAGE
    return [
        f"{file.relative_to(root)}:{line}: {wrong}"
        for file in sorted(package.rglob("*.py"))
        for line, module in imports(file, root)
        for wrong in _wrongs(file.relative_to(package).as_posix(), module, package)
    ]


def imports(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """The line and absolute name of every import in a file, those inside functions too."""
    parents = file.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(name, ".".join(parents))
            if module == PACKAGE:  # from jaxllm import core
                for alias in node.names:
                    yield node.lineno, f"{module}.{alias.name}"
            else:
                yield node.lineno, module


def _wrongs(file: str, module: str, package: Path) -> Iterator[str]:
    top, _, rest = module.partition(".")
    if top == "flax" and file != FLAX_FILE:
        yield f"imports {module}: only {PACKAGE}/{FLAX_FILE} may import flax"
    if top in JAX and file.startswith(JAX_FREE):
        yield f"imports {module}: this part of the package stays free of jax"
    own, target = file.split("/")[0], rest.split(".")[0]
    inside = top == PACKAGE and "/" in file and (package / target).is_dir() and target
    if not inside or own == target:
        return
    if own not in LEVEL or target not in LEVEL:
        yield f"{own if own not in LEVEL else target} is in no layer of tools/check_imports.py"
    elif LEVEL[target] > LEVEL[own]:
        yield f"imports {module}: {target} lies above {own}"
    elif LEVEL[target] == LEVEL[own]:
        yield f"imports {module}: {target} lies beside {own}; packages of a layer stay apart"


if __name__ == "__main__":
    broken = check()
    print("\n".join(broken) or "The layers are in order.")
    sys.exit(bool(broken))
