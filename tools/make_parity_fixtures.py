"""Writes the parity fixtures anew from transformers and torch: tests/parity/fixtures/CASE.npz.

`python tools/make_parity_fixtures.py [--case=FAMILY.NAME …]` in the project's root; needs the
extra `parity`. Fixtures whose case is gone are removed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.parity import theirs
from tests.parity.cases import cases
from tests.parity.reference import FIXTURES, save

SEED = 0


def main() -> None:
    """Makes those asked for, or all."""
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(known))
    asked = parser.parse_args().case
    if asked is None:
        for file in FIXTURES.glob("*.npz"):
            if file.stem not in known:
                file.unlink()
    for name in asked or known:
        file = FIXTURES / f"{name}.npz"
        save(theirs.make(known[name], SEED, sparse=True), file)
        print(f"{file.stat().st_size:>8,} {name}")
    total = sum(file.stat().st_size for file in FIXTURES.glob("*.npz"))
    print(f"{total:>8,} bytes together")


if __name__ == "__main__":
    main()
