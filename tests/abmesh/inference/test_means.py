from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from abmesh.inference.means import (
    best_rho2,
    half_width,
    log_e_mean,
    mean_interval,
    mixture_variance,
    stratified,
)
from abmesh.inference.numbers import Interval, Side, Slices

MIRRORED = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER, Side.TWO_SIDED: Side.TWO_SIDED}
SIDES = st.sampled_from(list(Side))
FREEDOM = st.sampled_from([math.inf, 9.0, 49.0])


def strata(seed: int, count: int = 3, slices: int = 20) -> tuple[list[Slices], list[Slices]]:
    rng = np.random.default_rng(seed)

    def arm(requests: float) -> Slices:
        n = rng.poisson(requests, slices).astype(float)
        return Slices(n, rng.binomial(n.astype(int), 0.1).astype(float))

    return [arm(200) for _ in range(count)], [arm(20 * (index + 1)) for index in range(count)]


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
    assert mean_interval(1.0, v, 10, 100, 0.05) == Interval(-math.inf, math.inf)
    assert mixture_variance(0.05, 100, 10, v, side=Side.GREATER) == 0


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
    log_e = float(log_e_mean(d, v, mixture_variance(alpha, n_star, n, v, side=side), side=side, nu=nu))
    # The one-sided equation is a bound, a little wider than the inversion; two-sided they are the same.
    assert log_e >= -math.log(alpha) - 1e-3
    if side is Side.TWO_SIDED:
        assert log_e == pytest.approx(-math.log(alpha), rel=1e-9)


def test_the_interval_is_narrowest_for_its_amount_of_data_where_it_is_tuned() -> None:
    widths = {n_star: float(half_width(1e-3, 1_000, n_star, 0.05)) for n_star in (100, 1_000, 10_000)}
    assert min(widths, key=lambda n_star: widths[n_star]) == 1_000


def test_one_sided_intervals_have_one_limit() -> None:
    assert mean_interval(1, 0.01, 100, 100, 0.05, side=Side.GREATER).upper == math.inf
    assert mean_interval(1, 0.01, 100, 100, 0.05, side=Side.LESS).lower == -math.inf
    both = mean_interval(1, 0.01, 100, 100, 0.05)
    assert both.lower + both.upper == pytest.approx(2)
    assert mean_interval(1, 0.01, 100, 100, 0.05, side=Side.GREATER).lower > both.lower


def test_the_best_rho_is_that_of_equation_161() -> None:
    assert best_rho2(0.05, 1_000) == pytest.approx(0.0079361546)
    with pytest.raises(ValueError, match="alpha is 0"):
        best_rho2(0.0, 1_000)


def test_strata_are_compared_within_themselves() -> None:
    # The first stratum has many requests of the control at a low rate, the second equal shares at a high one.
    low, high = np.full(10, 100.0), np.full(10, 100.0)
    a = [Slices(low * 19, low * 19 * 0.01), Slices(high, high * 0.1)]
    b = [Slices(low, low * 0.012), Slices(high, high * 0.12)]
    contrast = stratified(a, b)
    assert contrast.weight == pytest.approx(950 + 500)
    assert contrast.d == pytest.approx((950 * 0.002 + 500 * 0.02) / 1450)
    assert contrast.n == 2_000


def test_a_stratum_without_one_of_the_variants_says_nothing() -> None:
    a, b = strata(1, count=2)
    empty = Slices(np.zeros(20), np.zeros(20))
    two, three = stratified(a, b), stratified([*a, a[0]], [*b, empty])
    assert three.d == pytest.approx(float(two.d))
    assert three.v == pytest.approx(float(two.v))
    assert three.nu == pytest.approx(float(two.nu))
    nothing = stratified([empty], [empty])
    assert (float(nothing.d), float(nothing.v), float(nothing.n)) == (0, math.inf, 0)


def test_strata_must_be_pairs() -> None:
    a, b = strata(1)
    with pytest.raises(ValueError, match="3 strata of the control and 2 of the candidate"):
        stratified(a, b[:2])


def test_a_margin_moves_the_null() -> None:
    a, b = strata(2)
    plain, relative, absolute = stratified(a, b), stratified(a, b, scale=1.2), stratified(a, b, offset=0.02)
    assert absolute.d == pytest.approx(float(plain.d) - 0.02)
    assert relative.d < plain.d


@given(st.integers(0, 10**6), st.booleans())
def test_swapping_the_variants_only_flips_the_sign(seed: int, pooled: bool) -> None:
    a, b = strata(seed)
    one, other = stratified(a, b, pooled=pooled), stratified(b, a, pooled=pooled)
    assert one.d == pytest.approx(-float(other.d))
    assert one.v == pytest.approx(float(other.v))
    assert one.nu == pytest.approx(float(other.nu))


@given(st.integers(0, 10**6), st.floats(1e-6, 1e9), SIDES)
def test_scaling_the_unit_scales_estimates_and_leaves_evidence_alone(seed: int, unit: float, side: Side) -> None:
    a, b = strata(seed)
    scaled = stratified([Slices(s.n, unit * s.y) for s in a], [Slices(s.n, unit * s.y) for s in b])
    plain = stratified(a, b)
    assert scaled.d == pytest.approx(unit * float(plain.d), rel=1e-9, abs=1e-12 * unit)
    tau2 = [mixture_variance(0.05, 1_000, c.n, c.v, side=side) for c in (plain, scaled)]
    assert tau2[1] == pytest.approx(unit**2 * float(tau2[0]), rel=1e-9)
    log_e = [float(log_e_mean(c.d, c.v, t, side=side, nu=c.nu)) for c, t in zip((plain, scaled), tau2, strict=True)]
    assert log_e[0] == pytest.approx(log_e[1], rel=1e-6, abs=1e-9)


@given(st.integers(0, 10**6), st.randoms())
def test_neither_the_order_of_slices_nor_that_of_strata_matters(seed: int, random: Random) -> None:
    a, b = strata(seed)
    slices, order = random.sample(range(20), 20), random.sample(range(3), 3)
    moved = stratified(
        [Slices(a[s].n[slices], a[s].y[slices]) for s in order], [Slices(b[s].n[slices], b[s].y[slices]) for s in order]
    )
    plain = stratified(a, b)
    for name in ("d", "v", "n", "weight", "nu"):
        assert getattr(moved, name) == pytest.approx(float(getattr(plain, name)), rel=1e-9, abs=1e-15)
