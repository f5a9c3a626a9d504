"""Small public-domain corpora that come with the package, so that the first run needs no download.

Every folder here is a sample: its `.txt` files are the corpus, LICENSE.md says whose they are. The
files of `rows` are rows for fine-tuning, each a sample by itself.
"""

from __future__ import annotations

from pathlib import Path

from jaxllm.core.errors import unknown

ROOT = Path(__file__).parent


def sample(name: str) -> Path:
    """The folder of the bundled corpus `name`, or the file of the rows `rows/FILE`.

    Raises:
      UserError: there is no such sample.
    """
    names = [folder.parent.name for folder in ROOT.glob("*/LICENSE.md")]
    names.remove("rows")
    names += [f"rows/{file.name}" for file in ROOT.glob("rows/*") if file.suffix != ".md"]
    if name not in names:
        raise unknown("sample", name, names)
    return ROOT / name
