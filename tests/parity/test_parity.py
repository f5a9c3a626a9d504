"""Logits and gradients equal those of transformers on torch (design rule 6).

The committed fixtures need neither; where both are installed, fresh models are compared as well.
"""

from pathlib import Path

import numpy as np
import pytest

from jaxllm.nn.positions import frequencies

from .references import CASES, LENGTH, check, model_config

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("case", CASES)
def test_fixture(case, compute):
    file = FIXTURES / f"{case}.npz"
    assert file.stat().st_size < 300_000
    with np.load(file, allow_pickle=False) as reference:
        check(dict(reference), compute)


@pytest.mark.parametrize("case", CASES)
def test_live(case, compute):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from .make_fixtures import make

    check(make(case, seed=11), compute)


def test_scaling_matters_in_the_fixture():
    """The sequence is longer than RoPE's original length, and each of the three ranges is hit."""
    positions = model_config(*CASES["llama"]).positions
    assert positions.original_max_length < LENGTH
    ratio = positions.theta ** -(np.arange(0, 10, 2) / 10) / frequencies(positions, 10)
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(4)
    assert np.any((ratio > 1.05) & (ratio < 3.95))
