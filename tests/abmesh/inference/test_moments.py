from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from abmesh.inference.moments import Moments, PairedMoments, cuped, winsorised
from abmesh.inference.numbers import Floats


def moments(values: Floats) -> Moments:
    return Moments(values.size, float(values.sum()), float((values**2).sum()))


def test_moments_agree_with_welch() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(3, 2, 40), rng.normal(3.5, 1, 60)
    a, b = moments(x), moments(y)
    t = (b.mean - a.mean) / math.sqrt(a.standard_error2 + b.standard_error2)
    assert t == pytest.approx(ttest_ind(y, x, equal_var=False).statistic, rel=1e-9)


def test_a_covariate_from_before_narrows_the_difference_as_its_correlation_says() -> None:
    rng = np.random.default_rng(3)
    arms = []
    for shift in (0.0, 0.3):
        x = rng.normal(0, 1, 20_000)
        y = 0.8 * x + rng.normal(0, 0.6, 20_000) + shift
        arms.append(PairedMoments(moments(y), moments(x), float((x * y).sum())))
    d, v = cuped(*arms)
    plain = arms[0].y.standard_error2 + arms[1].y.standard_error2
    assert v / plain == pytest.approx(0.36, abs=0.02)
    assert abs(d - 0.3) < 4 * math.sqrt(v)


def test_a_covariate_without_spread_changes_nothing() -> None:
    a = PairedMoments(Moments(10, 5, 5), Moments(10, 10, 10), 5)
    b = PairedMoments(Moments(10, 8, 8), Moments(10, 10, 10), 8)
    d, v = cuped(a, b)
    assert d == pytest.approx(0.3)
    assert v == pytest.approx(a.y.standard_error2 + b.y.standard_error2)
    assert cuped(PairedMoments(Moments(1, 1, 1), Moments(1, 1, 1), 1), b)[1] == math.inf


def test_values_above_the_cap_count_as_the_cap() -> None:
    bins = {(0.0, 0.0): 1, (10.0, 2.0): 4, (100.0, 10.0): 5}
    # 0 once, 10..12 four times, five times 50.
    capped = winsorised(bins, 50)
    assert capped.n == 10
    assert capped.total == pytest.approx(4 * 11 + 5 * 50)
    assert capped.squares == pytest.approx(4 * (121 + 4 / 12) + 5 * 2_500)
    # The cap inside a bin: half of its values are spread below, half are at the cap.
    assert winsorised({(100.0, 10.0): 4}, 105).total == pytest.approx(2 * 102.5 + 2 * 105)


@given(
    st.dictionaries(
        st.integers(0, 99).map(lambda k: (k * 10.0, 10.0)), st.integers(1, 10**12), min_size=1, max_size=20
    ),
    st.floats(0, 2_000),
    st.floats(0, 2_000),
)
def test_a_higher_cap_never_lowers_the_mean(bins: dict[tuple[float, float], int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    lower, higher = winsorised(bins, low), winsorised(bins, high)
    assert lower.mean <= higher.mean * (1 + 1e-12)
    assert lower.mean <= low * (1 + 1e-12)
    assert lower.variance >= 0
