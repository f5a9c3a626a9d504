"""Scaling laws against the papers' own numbers; budgets and prices."""

import json

import pytest

from jaxllm.core.errors import UserError
from jaxllm.models.config import preset
from jaxllm.plan.flops import Lengths, model_flops
from jaxllm.plan.prices import TABLE, read_prices
from jaxllm.plan.scaling import (
    APPROACHES,
    BESIROGLU,
    HOFFMANN,
    PETAFLOP_DAY,
    budget_flops,
    optima,
    optimum,
)
from jaxllm.plan.shapes import model_shape

ONE, TWO, THREE, CORRECTED = APPROACHES

# Hoffmann et al. 2022, tables 3 and A3: parameters, FLOPs and tokens of approaches 1 and 2
CHINCHILLA = {
    ONE: [
        (400e6, 1.92e19, 8.0e9), (1e9, 1.21e20, 20.2e9), (10e9, 1.23e22, 205.1e9),
        (67e9, 5.76e23, 1.5e12), (175e9, 3.85e24, 3.7e12), (280e9, 9.90e24, 5.9e12),
        (520e9, 3.43e25, 11.0e12), (1e12, 1.27e26, 21.2e12), (10e12, 1.30e28, 216.2e12),
    ],
    TWO: [(1e9, 1.20e20, 20.0e9), (10e9, 1.32e22, 219.5e9), (67e9, 6.88e23, 1.7e12),
          (10e12, 1.75e28, 292.0e12)],
}


@pytest.mark.parametrize(("approach", "row"), [
    (approach, row) for approach, rows in CHINCHILLA.items() for row in rows
])
def test_chinchillas_table(approach, row):
    parameters, flops, tokens = row
    best = optimum(approach, flops)
    assert best.parameters == pytest.approx(parameters, rel=0.1)
    assert best.tokens == pytest.approx(tokens, rel=0.1)
    assert best.loss is None


def test_gpt3_takes_3640_petaflop_days():
    """Brown et al. 2020, table D.1: 174.6B parameters, 300B tokens."""
    shape = model_shape(preset("gpt3_175b").completed())
    assert shape.parameters == pytest.approx(174.6e9, rel=0.005)
    flops = model_flops(shape, Lengths(2048)) / 2048 * 300e9
    assert flops / PETAFLOP_DAY == pytest.approx(3640, rel=0.03)


def test_parametric_fits_at_chinchillas_budget():
    """Besiroglu et al. 2024: about 20 tokens a parameter, where the printed fit has about 70."""
    corrected, printed = (optimum(name, 5.76e23) for name in (CORRECTED, THREE))
    assert 17 < corrected.tokens / corrected.parameters < 25
    assert 60 < printed.tokens / printed.parameters < 110
    assert printed.parameters == pytest.approx(40e9, rel=0.25)  # the paper says 40B


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU])
def test_the_optimum_is_the_least_loss(law):
    parameters, tokens = law.optimum(1e22)
    assert 6 * parameters * tokens == pytest.approx(1e22)
    best = law.loss(parameters, tokens)
    for factor in (0.9, 1.1):
        assert law.loss(parameters * factor, tokens / factor) > best
    assert law.loss(1e15, 1e18) == pytest.approx(law.E, abs=0.01)


def test_budgets():
    chip = {"chip_peak": 1e15, "mfu": 0.5}
    assert budget_flops(flops=1e20) == 1e20
    assert budget_flops(chip_days=2, **chip) == 2 * 86_400 * 0.5e15
    assert budget_flops(money=48.0, price_per_chip_hour=2.0, **chip) == 86_400 * 0.5e15
    with pytest.raises(UserError, match="Give one budget"):
        budget_flops(flops=1e20, money=3.0)
    with pytest.raises(UserError, match="--prices=FILE"):
        budget_flops(money=48.0, **chip)
    with pytest.raises(UserError, match="above 0"):
        budget_flops(flops=-1.0)
    with pytest.raises(UserError, match="above 0"):
        optimum(ONE, 0)
    assert len(optima(1e20)) == 4


def test_prices(tmp_path):
    ours = read_prices()
    assert ours.source == str(TABLE) and ours.of("v6e")["on_demand"] == 2.7
    mine = tmp_path / "prices.json"
    mine.write_text(json.dumps({"per_chip_hour": {"v6e": {"spot": 1.0}}, "currency": "EUR"}))
    prices = read_prices(str(mine))
    assert prices.of("v6e") == {"on_demand": None, "spot": 1.0, "committed": None}
    assert prices.currency == "EUR" and prices.of("v4")["spot"] is None


@pytest.mark.parametrize(("content", "words"), [
    ("{", "no JSON"), ("[]", "per_chip_hour"), ('{"per_chip_hour": {"v6": {}}}', "'v6e'"),
    ('{"per_chip_hour": {"v6e": {"spot": -1}}}', "v6e.spot=-1"),
    ('{"per_chip_hour": {"v6e": {"sport": 1}}}', "v6e.sport"),
    ('{"per_chip_hour": {"v6e": 3}}', "v6e"),
])
def test_bad_price_tables(tmp_path, content, words):
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        read_prices(str(file))


def test_a_missing_price_table():
    with pytest.raises(UserError, match="there is no such file"):
        read_prices("nowhere.json")
