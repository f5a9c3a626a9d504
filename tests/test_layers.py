"""The layering holds in the package, the check finds what breaks it, and start-up stays light."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_spec = importlib.util.spec_from_file_location("check_imports", ROOT / "tools/check_imports.py")
check_imports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_imports)


def test_the_package_is_layered():
    assert check_imports.check() == []


@pytest.mark.parametrize(("file", "source", "wrong"), [
    ("core/a.py", "def f():\n    from jaxllm.nn.norms import g", "a.py:2: imports jaxllm.nn.norms"),
    ("core/a.py", "from jaxllm import models", "models lies above core"),
    ("nn/a.py", "import jaxllm.data.batch", "data lies beside nn"),
    ("nn/a.py", "from ..data import batch", "data lies beside nn"),
    ("nn/a.py", "import flax.nnx", "may import flax"),
    ("nn/module.py", "from flax import nnx", None),
    ("nn/a.py", "import jax\nfrom jaxllm.core.errors import UserError", None),
    ("nn/a.py", "from jaxllm import __version__", None),
    ("data/prepare/a.py", "from jax import numpy", "free of jax"),
    ("data/loader.py", "import jax", None),
    ("new/a.py", "from jaxllm.core import errors", "new is in no layer"),
])
def test_the_check_finds(tmp_path, file, source, wrong):
    for name in ("core", "data", "nn", "models"):
        (tmp_path / "jaxllm" / name).mkdir(parents=True)
    target = tmp_path / "jaxllm" / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source)
    found = check_imports.check(tmp_path)
    assert len(found) == (wrong is not None)
    assert wrong is None or wrong in found[0]


@pytest.mark.parametrize("program", [
    "from jaxllm.cli.main import main; main(['--help'])",
    "import jaxllm.cli.prepare",
    "import jaxllm.cli.report",
    "import jaxllm",
])
def test_starts_without_jax(program):
    program += "\nimport sys; print('loaded', sorted({'jax', 'flax'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "loaded []"
