from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from abmesh.inference.means import best_rho2, half_width, log_e_mean
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Side

MIRRORED = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER, Side.TWO_SIDED: Side.TWO_SIDED}
SIDES = st.sampled_from(list(Side))
FREEDOM = st.sampled_from([math.inf, 9.0, 49.0])


@pytest.mark.parametrize("side", list(Side))
def test_the_e_value_is_the_likelihood_ratio_averaged_over_the_mixture(side: Side) -> None:
    d, v, tau2 = 0.7, 0.2, 0.5
    low = 0.0 if side is Side.GREATER else -20.0
    high = 0.0 if side is Side.LESS else 20.0
    weight = 1.0 if side is Side.TWO_SIDED else 2.0

    def integrand(theta: float) -> float:
        density = norm.pdf(d, theta, math.sqrt(v)) / norm.pdf(d, 0, math.sqrt(v))
        return float(weight * density * norm.pdf(theta, 0, math.sqrt(tau2)))

    expected = quad(integrand, low, high, points=[d] if low < d < high else None)[0]
    assert math.exp(log_e_mean(d, v, tau2, side=side)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("side", list(Side))
def test_many_degrees_of_freedom_are_as_good_as_a_known_variance(side: Side) -> None:
    known = log_e_mean(0.7, 0.1, 0.5, side=side)
    assert log_e_mean(0.7, 0.1, 0.5, side=side, nu=1e9) == pytest.approx(float(known), abs=1e-6)
    if side is not Side.LESS:
        assert log_e_mean(0.7, 0.1, 0.5, side=side, nu=9.0) < known


@pytest.mark.parametrize("side", list(Side))
def test_few_degrees_of_freedom_keep_the_expectation_under_the_null_at_1(side: Side) -> None:
    # One look at Student's t: E = 1 in expectation, whatever the unknown variance. A known variance's form exceeds it.
    rng = np.random.default_rng(4)
    z, chi2 = rng.normal(size=400_000), rng.chisquare(9, size=400_000)
    v = chi2 / 9
    values = np.exp(log_e_mean(z, v, v, side=side, nu=9.0))
    assert values.mean() == pytest.approx(1, abs=5 * values.std() / math.sqrt(values.size))


@given(st.floats(-1e12, 1e12), st.floats(0, 1e24), st.floats(0, 1e24), SIDES, FREEDOM)
def test_any_numbers_give_a_number(d: float, v: float, tau2: float, side: Side, nu: float) -> None:
    assert not math.isnan(log_e_mean(d, v, tau2, side=side, nu=nu))


@pytest.mark.parametrize("v", [0.0, math.inf])
def test_without_a_variance_nothing_is_known(v: float) -> None:
    assert log_e_mean(1.0, v, 1.0, side=Side.TWO_SIDED) == 0
    assert half_width(v, 10, 100, 0.05) == math.inf


@given(st.floats(-50, 50), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), SIDES, FREEDOM)
def test_swapping_the_variants_swaps_the_sides(d: float, v: float, tau2: float, side: Side, nu: float) -> None:
    mirrored = log_e_mean(-d, v, tau2, side=MIRRORED[side], nu=nu)
    assert log_e_mean(d, v, tau2, side=side, nu=nu) == pytest.approx(float(mirrored), rel=1e-12, abs=1e-12)


@given(st.floats(1, 1e6), st.floats(10, 1e6), st.sampled_from([0.001, 0.01, 0.05]), SIDES, FREEDOM)
def test_what_lies_outside_the_interval_is_rejected(
    n: float, n_star: float, alpha: float, side: Side, nu: float
) -> None:
    v = 3.0 / n
    width = float(half_width(v, n, n_star, alpha, side=side, nu=nu))
    if math.isinf(width):
        return
    d = width if side is not Side.LESS else -width
    tuned = alpha if side is Side.TWO_SIDED else 2 * alpha
    log_e = float(log_e_mean(d, v, best_rho2(tuned, n_star) * n * v, side=side, nu=nu))
    # The one-sided equation is a bound, a little wider than the inversion; two-sided they are the same.
    assert log_e >= -math.log(alpha) - 1e-3
    if side is Side.TWO_SIDED:
        assert log_e == pytest.approx(-math.log(alpha), rel=1e-9)


def test_the_interval_is_narrowest_for_its_amount_of_data_where_it_is_tuned() -> None:
    widths = {n_star: float(half_width(1e-3, 1_000, n_star, 0.05)) for n_star in (100, 1_000, 10_000)}
    assert min(widths, key=lambda n_star: widths[n_star]) == 1_000


def test_the_best_rho_is_that_of_equation_161() -> None:
    assert best_rho2(0.05, 1_000) == pytest.approx(0.0079361546)
    with pytest.raises(ValueError, match="alpha is 0"):
        best_rho2(0.0, 1_000)


def test_the_published_interval_of_a_lift_is_reproduced() -> None:
    """GrowthBook's gbstats: an asymptotic confidence sequence, tuned to 1,000 units of both variants."""
    a, b = Moments(3_000, 1_396.87, 52_377.9767), Moments(3_461, 2_422.7, 134_698.29)
    ratio = b.mean / a.mean
    v = (b.standard_error2 + a.standard_error2 * ratio**2) / a.mean**2
    width = float(half_width(v, a.n + b.n, 1_000, 0.05))
    assert (ratio - 1, ratio - 1 - width, ratio - 1 + width) == pytest.approx((0.50336, -0.55844, 1.56516), abs=5e-6)
    assert half_width(v, a.n + b.n, 1_000, 0.05, side=Side.GREATER) < width
