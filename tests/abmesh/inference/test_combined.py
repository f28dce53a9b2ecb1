"""Strata are compared one by one and then combined: what must not depend on how they are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.combined import combine, standardised
from abmesh.inference.numbers import Floats

Strata = tuple[Floats, Floats, Floats, Floats, Floats]


def combined(n_a: Floats, y_a: Floats, n_b: Floats, y_b: Floats, s2: Floats) -> tuple[float, float]:
    d, v = combine(n_a, y_a, n_b, y_b, s2)
    return float(d), float(v)


def strata(seed: int, count: int = 3) -> Strata:
    random = np.random.default_rng(seed)
    n_a, n_b = random.integers(1, 10_000, (2, count)).astype(float)
    y_a, y_b = random.binomial(n_a.astype(int), 0.1).astype(float), random.binomial(n_b.astype(int), 0.12).astype(float)
    return n_a, y_a, n_b, y_b, random.uniform(0.01, 2.0, count)


def test_strata_are_compared_within_themselves() -> None:
    """The first stratum has many requests of the control at a low rate, the second equal shares at a high one."""
    n_a, n_b = np.array([19_000.0, 1_000.0]), np.array([1_000.0, 1_000.0])
    y_a, y_b = n_a * np.array([0.01, 0.1]), n_b * np.array([0.012, 0.12])
    d, v = combined(n_a, y_a, n_b, y_b, np.array([0.01, 0.1]))
    assert d == pytest.approx((950 * 0.002 + 500 * 0.02) / 1450)
    assert v == pytest.approx((950**2 * 0.01 * 20 / 19_000 + 500**2 * 0.1 * 2 / 1_000) / 1450**2)


def test_compared_by_day_the_treatment_wins_that_loses_over_both_days() -> None:
    """The example of Crook, Frasca, Kohavi and Longbotham, Seven Pitfalls to Avoid (KDD 2009)."""
    n_a, n_b = np.array([990_000.0, 500_000.0]), np.array([10_000.0, 500_000.0])
    y_a, y_b = n_a * np.array([0.0202, 0.01]), n_b * np.array([0.023, 0.012])
    d, _ = combined(n_a, y_a, n_b, y_b, np.ones(2))
    assert d == pytest.approx(0.00203, abs=1e-5)
    n_a, y_a, n_b, y_b = (each.sum(keepdims=True) for each in (n_a, y_a, n_b, y_b))
    pooled, _ = combined(n_a, y_a, n_b, y_b, np.ones(1))
    assert pooled < 0


def test_a_stratum_without_one_of_the_variants_says_nothing() -> None:
    n_a, y_a, n_b, y_b, s2 = strata(1)
    more = [np.append(each, last) for each, last in ((n_a, 50.0), (y_a, 5.0), (n_b, 0.0), (y_b, 0.0), (s2, 1.0))]
    assert combined(*more) == pytest.approx(combined(n_a, y_a, n_b, y_b, s2))
    assert standardised(*more[:4]) == pytest.approx(standardised(n_a, y_a, n_b, y_b))
    nothing = np.zeros(2)
    assert combined(nothing, nothing, nothing, nothing, nothing) == (0, math.inf)
    assert standardised(nothing, nothing, nothing, nothing) is None


@given(st.integers(0, 10**6))
def test_the_difference_is_that_of_the_standardised_rates(seed: int) -> None:
    n_a, y_a, n_b, y_b, s2 = strata(seed)
    rates = standardised(n_a, y_a, n_b, y_b)
    assert rates is not None
    assert combined(n_a, y_a, n_b, y_b, s2)[0] == pytest.approx(rates[1] - rates[0])


@given(st.integers(0, 10**6), st.permutations([0, 1, 2]))
def test_neither_the_order_of_strata_nor_which_variant_comes_first_matters(seed: int, order: list[int]) -> None:
    n_a, y_a, n_b, y_b, s2 = strata(seed)
    d, v = combined(n_a, y_a, n_b, y_b, s2)
    assert combined(*(each[order] for each in (n_a, y_a, n_b, y_b, s2))) == pytest.approx((d, v))
    assert combined(n_b, y_b, n_a, y_a, s2) == pytest.approx((-d, v))


@given(st.integers(0, 10**6), st.floats(1e-6, 1e9))
def test_the_unit_only_scales(seed: int, unit: float) -> None:
    n_a, y_a, n_b, y_b, s2 = strata(seed)
    d, v = combined(n_a, y_a, n_b, y_b, s2)
    scaled = combined(n_a, unit * y_a, n_b, unit * y_b, unit**2 * s2)
    assert scaled[0] == pytest.approx(unit * d, rel=1e-9, abs=1e-12 * unit)
    assert scaled[1] == pytest.approx(unit**2 * v, rel=1e-9)
