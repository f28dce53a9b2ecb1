"""Tests and sizes for one look, against two other implementations."""

import math
import warnings
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abmesh.inference.fixed import (
    FixedResult,
    RatioMoments,
    anytime_sample_size,
    ratio_metric,
    sample_size,
    sequential_sample_size,
    two_proportions,
    welch,
)
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Floats

with warnings.catch_warnings():
    # Other people's deprecations, at import, are none of ours.
    warnings.simplefilter("ignore")
    import tea_tasting
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import confint_proportions_2indep, proportion_effectsize, proportions_ztest
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
    from tea_tasting.aggr import Aggregates

Sample = tuple[int, float, float, int]

SAMPLES = st.tuples(st.integers(2, 200), st.floats(0.5, 20), st.floats(0.1, 5), st.integers(0, 10**6))
EXACT: dict[str, Any] = {"rel": 1e-9, "abs": 1e-9}


def drawn(sample: Sample) -> tuple[Floats, Floats]:
    n, mean, deviation, seed = sample
    rng = np.random.default_rng(seed)
    y = mean + deviation * rng.standard_normal(n)
    m = 1 + rng.poisson(4, n) + 0.01 * rng.standard_normal(n)
    return y + 20, m


def moments(y: Floats) -> Moments:
    return Moments(len(y), y.sum(), (y**2).sum())


def ratio_moments(y: Floats, m: Floats) -> RatioMoments:
    return RatioMoments(len(y), y.sum(), m.sum(), (y**2).sum(), (m**2).sum(), (y * m).sum())


def aggregates(y: Floats, m: Floats) -> Aggregates:
    covariance = np.cov(y, m)
    return Aggregates(
        len(y),
        {"y": y.mean(), "m": m.mean()},
        {"y": covariance[0, 0], "m": covariance[1, 1]},
        {("m", "y"): covariance[0, 1]},
    )


def agree(ours: FixedResult, theirs: Any) -> None:
    assert ours.estimate == pytest.approx(theirs.effect_size, **EXACT)
    assert ours.interval.lower == pytest.approx(theirs.effect_size_ci_lower, **EXACT)
    assert ours.interval.upper == pytest.approx(theirs.effect_size_ci_upper, **EXACT)
    assert ours.p == pytest.approx(theirs.pvalue, **EXACT)
    assert ours.relative == pytest.approx(theirs.rel_effect_size, **EXACT)
    assert ours.relative_interval.lower == pytest.approx(theirs.rel_effect_size_ci_lower, **EXACT)
    assert ours.relative_interval.upper == pytest.approx(theirs.rel_effect_size_ci_upper, **EXACT)


@given(SAMPLES, SAMPLES)
def test_welch_agrees_with_tea_tasting(a: Sample, b: Sample) -> None:
    (y_a, m_a), (y_b, m_b) = drawn(a), drawn(b)
    theirs = tea_tasting.Mean("y").analyze_aggregates(aggregates(y_a, m_a), aggregates(y_b, m_b))
    agree(welch(moments(y_a), moments(y_b), 0.05), theirs)


@given(SAMPLES, SAMPLES)
def test_welch_agrees_with_statsmodels(a: Sample, b: Sample) -> None:
    y_a, y_b = drawn(a)[0], drawn(b)[0]
    ours = welch(moments(y_a), moments(y_b), 0.1)
    theirs = CompareMeans(DescrStatsW(y_b), DescrStatsW(y_a))
    assert ours.p == pytest.approx(theirs.ttest_ind(usevar="unequal")[1], **EXACT)
    lower, upper = theirs.tconfint_diff(0.1, usevar="unequal")
    assert (ours.interval.lower, ours.interval.upper) == pytest.approx((lower, upper), **EXACT)


@given(SAMPLES, SAMPLES)
def test_a_ratio_of_sums_agrees_with_tea_tasting(a: Sample, b: Sample) -> None:
    arms = drawn(a), drawn(b)
    theirs = tea_tasting.RatioOfMeans("y", "m").analyze_aggregates(aggregates(*arms[0]), aggregates(*arms[1]))
    agree(ratio_metric(ratio_moments(*arms[0]), ratio_moments(*arms[1]), 0.05), theirs)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 500), st.integers(1, 500))
def test_two_proportions_agree_with_statsmodels(s_a: float, no_a: float, s_b: float, no_b: float) -> None:
    n_a, n_b = s_a + no_a, s_b + no_b
    ours = two_proportions(s_a, n_a, s_b, n_b, 0.05)
    assert ours.p == pytest.approx(proportions_ztest([s_b, s_a], [n_b, n_a])[1], **EXACT)
    wald = confint_proportions_2indep(s_b, n_b, s_a, n_a, method="wald", compare="diff")
    assert (ours.interval.lower, ours.interval.upper) == pytest.approx(wald, **EXACT)
    log = confint_proportions_2indep(s_b, n_b, s_a, n_a, method="log", compare="ratio")
    assert (ours.relative_interval.lower + 1, ours.relative_interval.upper + 1) == pytest.approx(log, **EXACT)


def test_from_2_to_2_4_percent_takes_21066_per_arm() -> None:
    """Rates are planned on the arcsine scale, on which both variances are 1."""
    effect = 2 * (math.asin(math.sqrt(0.024)) - math.asin(math.sqrt(0.02)))
    assert effect == pytest.approx(proportion_effectsize(0.024, 0.02))
    n = sample_size(1.0, 1.0, effect, 0.05, 0.8)
    assert math.floor(n) == 21_066
    theirs = NormalIndPower().solve_power(effect, alpha=0.05, power=0.8)
    # Theirs also counts the chance of finding the difference on the wrong side, of one in a hundred thousand.
    assert n == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.05, 1.0, 3.0])
def test_sample_size_agrees_with_statsmodels_for_any_split(ratio: float) -> None:
    theirs = NormalIndPower().solve_power(0.1, alpha=0.01, power=0.9, ratio=ratio)
    assert sample_size(4.0, 4.0, 0.2, 0.01, 0.9, ratio) == pytest.approx(theirs, rel=1e-6)


def test_the_planned_size_has_the_power() -> None:
    rng = np.random.default_rng(5)
    n = math.ceil(sample_size(1.0, 4.0, 0.3, 0.05, 0.8))
    a, b = rng.normal(0, 1, (4000, n)), rng.normal(0.3, 2, (4000, n))
    z = (b.mean(axis=1) - a.mean(axis=1)) / math.sqrt(5 / n)
    assert (z >= 1.96).mean() == pytest.approx(0.8, abs=0.02)


def test_designs_that_may_stop_early_cost_more_at_most() -> None:
    fixed = sample_size(1.0, 1.0, 0.1, 0.05, 0.8)
    assert anytime_sample_size(1.0, 1.0, 0.1, 0.05, 0.8) / fixed == pytest.approx(1.9, abs=0.05)
    assert sequential_sample_size(1.0, 1.0, 0.1, 0.05, 0.8, 5) / fixed == pytest.approx(1.025, abs=0.005)


NOTHING = Moments(0, 0, 0)
SOME = Moments(3, 6, 14)


@pytest.mark.parametrize("few", [NOTHING, Moments(1, 5, 25)])
def test_of_fewer_than_two_values_nothing_can_be_told(few: Moments) -> None:
    for result in (welch(few, SOME, 0.05), welch(SOME, few, 0.05)):
        assert result.p == 1
        assert (result.interval.lower, result.interval.upper) == (-math.inf, math.inf)


def test_values_that_never_vary() -> None:
    same, other = Moments(4, 8, 16), Moments(4, 12, 36)
    assert welch(same, same, 0.05).p == 1
    assert welch(same, other, 0.05).p == 0
    assert welch(same, other, 0.05).relative_interval.upper == pytest.approx(0.5)


def test_means_that_have_no_ratio() -> None:
    result = welch(Moments(4, 0, 10), SOME, 0.05)
    assert result.relative is None
    assert result.relative_interval.upper == math.inf
    assert two_proportions(0, 100, 5, 100, 0.05).relative is None
    assert two_proportions(5, 100, 0, 100, 0.05).relative == -1
    assert two_proportions(0, 0, 0, 100, 0.05).p == 1
    assert ratio_metric(RatioMoments(0, 0, 0, 0, 0, 0), RatioMoments(1, 1, 1, 1, 1, 1), 0.05).p == 1


@example(5e-324, 2.0, 1.0, 0.0)
@example(1e-200, 1e12, 1e-200, 1e12)
@given(st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0, 1e12))
def test_no_counts_break_two_proportions(s_a: float, no_a: float, s_b: float, no_b: float) -> None:
    result = two_proportions(s_a, s_a + no_a, s_b, s_b + no_b, 0.05)
    assert 0 <= result.p <= 1
    assert result.interval.lower <= result.estimate <= result.interval.upper
    assert not any(math.isnan(limit) for limit in (*astuple(result.interval), *astuple(result.relative_interval)))


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1.0, 1e100])
def test_no_unit_breaks_means_and_ratios(scale: float) -> None:
    """A square of a value may be too small or too large for a float while the value is not."""
    a, b = Moments(3, 6 * scale, 14 * scale * scale), Moments(3, 9 * scale, 29 * scale * scale)
    users = RatioMoments(4, 8 * scale, 4 * scale, 20 * scale * scale, 5 * scale * scale, 9 * scale * scale)
    for result in (welch(a, b, 0.05), ratio_metric(users, users, 0.05)):
        assert 0 <= result.p <= 1
        limits = (*astuple(result.interval), *astuple(result.relative_interval))
        assert not any(math.isnan(limit) for limit in limits)
