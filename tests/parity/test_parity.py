"""Every family computes, reads and writes what transformers does (design rule 6).

The committed fixtures need neither torch nor transformers; where both are installed, fresh models
of another seed are compared as well, so that no fixture hides that it is stale.
"""

import dataclasses
import importlib
import math

import pytest

from tests.documents import read_table, write_table
from tests.parity.cases import cases
from tests.parity.ours import check
from tests.parity.reference import FIXTURES, load

CASES = cases()
FAMILIES = sorted({name.partition(".")[0] for name in CASES})
FIRST = [next(n for n in CASES if n.startswith(f"{family}.")) for family in FAMILIES]
SEED = 11


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=[] if name in FIRST else pytest.mark.thorough)
    for name in CASES
])
def case(request):
    """Both tests of a case in turn: they share the compiled program."""
    return request.param


def test_fixture(case, compute, tmp_path, request):
    file = FIXTURES / f"{case}.npz"
    assert file.exists(), f"make it: python tools/make_parity_fixtures.py --case={case}"
    difference = check(load(file), tmp_path, compute)
    if not request.config.getoption("--update-golden"):
        assert difference <= 10 * documented()[case.partition(".")[0]], "see docs/models.md"


@pytest.mark.slow
def test_live(case, compute, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.parity.theirs import make

    check(make(CASES[case], SEED, sparse=False), tmp_path, compute)


def test_a_difference_names_its_layer(compute, tmp_path):
    reference = load(FIXTURES / "llama.llama3.npz")
    states = reference.hidden["decoder"].copy()
    states[1, 3, 2] += 1e-3
    with pytest.raises(AssertionError, match="after layer 1 of 2 of the decoder"):
        check(dataclasses.replace(reference, hidden={"decoder": states}), tmp_path, compute)
    gradients = {name: g.copy() for name, g in reference.gradients.items()}
    name = "model.layers.1.mlp.up_proj.weight"
    gradients[name] *= 1.01
    with pytest.raises(AssertionError, match=f"gradient of {name}"):
        check(dataclasses.replace(reference, gradients=gradients), tmp_path, compute)
    config = {**reference.config, "rms_norm_eps": 4e-3}
    with pytest.raises(AssertionError, match="after layer 1 of 2 of the decoder"):
        check(dataclasses.replace(reference, config=config), tmp_path, compute)


def documented():
    """The differences of docs/models.md by family."""
    return {row[0]: float(row[-1]) for row in read_table("parity")}


def rows(differences):
    for family in FAMILIES:
        mine = {name: case for name, case in CASES.items() if name.startswith(f"{family}.")}
        text = importlib.import_module(f"tests.parity.cases.{family}").__doc__.splitlines()[0]
        kinds = sorted({case.model for case in mine.values()})
        yield (
            family, text.partition(": ")[2].rstrip("."), ", ".join(kinds), str(len(mine)),
            f"{differences[family]:.0e}",
        )


def test_the_documented_table(request, compute, tmp_path):
    """Families, mechanisms and classes; the differences are checked by `test_fixture`."""
    if request.config.getoption("--update-golden"):
        largest = dict.fromkeys(FAMILIES, 0.0)
        for case in CASES:
            folder = tmp_path / case
            folder.mkdir()
            family = case.partition(".")[0]
            found = check(load(FIXTURES / f"{case}.npz"), folder, compute)
            largest[family] = max(largest[family], found)
        largest = {name: 10.0 ** math.ceil(math.log10(d)) for name, d in largest.items()}
        head = ("family", "what is compared", "classes", "cases", "difference")
        write_table("parity", head, rows(largest))
    expected = [list(row) for row in rows(documented())]
    assert read_table("parity") == expected, "write docs/models.md anew with --update-golden"


def test_no_fixture_is_spare_and_all_are_small():
    files = list(FIXTURES.iterdir())
    assert {file.name for file in files} == {f"{name}.npz" for name in CASES}
    assert sum(file.stat().st_size for file in files) < 1_500_000


def test_each_kind_of_model_has_its_gradients_compared():
    kinds = {case.kind for case in CASES.values() if case.gradients}
    assert kinds >= {"decoder", "encoder", "encoder_decoder"}
