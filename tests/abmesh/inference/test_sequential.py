"""Group-sequential boundaries: published numbers, laws, and a simulated Brownian motion."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from abmesh.inference.sequential import boundaries, inflation, spent, stopping

SCHEDULES = st.lists(st.integers(1, 50), min_size=1, max_size=8, unique=True).map(lambda x: [i / 50 for i in sorted(x)])


def even(looks: int) -> list[float]:
    return [look / looks for look in range(1, looks + 1)]


def test_four_looks_as_published() -> None:
    """R packages print 4.332634, 2.963132, 2.359044, 2.014090; older tables differ from these in the fourth decimal."""
    found = boundaries(even(4), 0.025, sides=1)
    assert found == pytest.approx((4.332634, 2.963132, 2.359044, 2.014090), abs=1e-6)
    assert found == pytest.approx((4.33263, 2.96333, 2.35902, 2.01409), abs=3e-4)


def test_five_looks_as_published() -> None:
    published = (4.877, 3.357, 2.680, 2.290, 2.031)
    assert boundaries(even(5), 0.025, sides=1) == pytest.approx(published, abs=5e-4)
    assert boundaries(even(5), 0.05, sides=2) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("sides", [1, 2])
def test_one_look_is_the_fixed_test(sides: int) -> None:
    assert boundaries([1.0], 0.05, sides=sides) == pytest.approx((norm.isf(0.05 / sides),))


@settings(max_examples=15, deadline=None)
@given(SCHEDULES, st.sampled_from([1, 2]))
def test_any_looks_spend_what_the_last_one_allows(fractions: list[float], sides: int) -> None:
    limits = boundaries(fractions, 0.05, sides=sides)
    assert sum(stopping(fractions, limits, 0.0, sides=sides)) == pytest.approx(
        spent(fractions[-1], 0.05, sides), rel=1e-6
    )


@settings(max_examples=10, deadline=None)
@given(SCHEDULES)
def test_later_looks_do_not_change_earlier_boundaries(fractions: list[float]) -> None:
    whole = boundaries(fractions, 0.05, sides=2)
    assert boundaries(fractions[:-1], 0.05, sides=2) == whole[:-1]


def test_spending_grows_from_nothing_to_alpha() -> None:
    values = [spent(t, 0.05, 2) for t in (0, 0.01, 0.3, 0.6, 1, 1.2)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[-2:] == pytest.approx([0.05, 0.05])


def test_crossing_probabilities_agree_with_a_simulated_path() -> None:
    fractions, drift, runs = [0.2, 0.5, 0.7, 1.0], 2.5, 200_000
    limits = boundaries(fractions, 0.05, sides=2)
    steps = np.diff([0.0, *fractions])
    rng = np.random.default_rng(7)
    path = (drift * steps + np.sqrt(steps) * rng.standard_normal((runs, 4))).cumsum(axis=1) / np.sqrt(fractions)
    crossed = np.abs(path) >= np.array(limits)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 4)
    seen = np.bincount(first, minlength=5)[:4] / runs
    assert stopping(fractions, limits, drift, sides=2) == pytest.approx(seen, abs=4e-3)


def test_a_look_with_nothing_to_spend_does_not_stop() -> None:
    limits = boundaries([1e-6, 1.0], 0.05, sides=2)
    assert limits[0] == math.inf
    assert limits[1] == pytest.approx(norm.isf(0.025))


def test_sequential_designs_cost_little_at_most() -> None:
    assert inflation(1, 0.05, 0.8, 2) == pytest.approx(1, abs=1e-6)
    assert [inflation(k, 0.05, 0.8, 2) for k in (2, 5, 10)] == sorted(inflation(k, 0.05, 0.8, 2) for k in (2, 5, 10))
    assert 1.02 < inflation(5, 0.05, 0.8, 2) < 1.03


def test_the_inflated_design_has_the_power() -> None:
    fractions, power = even(3), 0.9
    drift = float(norm.isf(0.025) + norm.ppf(power)) * math.sqrt(inflation(3, 0.025, power, 1))
    assert sum(stopping(fractions, boundaries(fractions, 0.025, sides=1), drift)) == pytest.approx(power)


@pytest.mark.parametrize("fractions", [[0.0, 0.5], [0.5, 0.5], [0.7, 0.3], [0.5, 1.1], [float("nan")]])
def test_fractions_that_do_not_increase_to_one_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match="information fractions increase"):
        boundaries(fractions, 0.05, sides=2)


def test_three_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 2 sides"):
        boundaries([1.0], 0.05, sides=3)
