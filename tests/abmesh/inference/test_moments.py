from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from abmesh.inference.moments import Moments, PairedMoments, cuped, cuped_slope, winsorised
from abmesh.inference.numbers import Floats


def moments(values: Floats) -> Moments:
    return Moments(values.size, float(values.sum()), float((values**2).sum()))


def test_moments_agree_with_welch() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(3, 2, 40), rng.normal(3.5, 1, 60)
    a, b = moments(x), moments(y)
    t = (b.mean - a.mean) / math.sqrt(a.standard_error2 + b.standard_error2)
    assert t == pytest.approx(ttest_ind(y, x, equal_var=False).statistic, rel=1e-9)


def paired(x: Floats, y: Floats) -> PairedMoments:
    return PairedMoments(moments(y), moments(x), float((x * y).sum()))


def test_a_covariate_from_before_narrows_the_difference_as_its_correlation_says() -> None:
    rng = np.random.default_rng(3)
    new = rng.random(40_000) < 0.5
    x = rng.normal(5, 1, new.size)
    y = 0.8 * x + rng.normal(0, 0.6, new.size) + 0.3 * new
    slope = cuped_slope([paired(x[arm], y[arm]) for arm in (~new, new)])
    assert slope == pytest.approx(0.8, abs=0.02)
    adjusted = cuped(y, x, slope)
    assert adjusted.mean() == pytest.approx(y.mean())
    a, b = moments(adjusted[~new]), moments(adjusted[new])
    plain = moments(y[~new]).standard_error2 + moments(y[new]).standard_error2
    v = a.standard_error2 + b.standard_error2
    assert v / plain == pytest.approx(0.36, abs=0.02)
    assert abs(b.mean - a.mean - 0.3) < 4 * math.sqrt(v)


def test_the_slope_is_that_within_variants() -> None:
    """Over all units together the effect itself would pass for a slope."""
    a, b = paired(np.array([1.0, 2, 3]), np.array([5.0, 5, 5])), paired(np.array([4.0, 5, 6]), np.array([9.0, 9, 9]))
    assert cuped_slope((a, b)) == 0


def test_a_covariate_without_spread_changes_nothing() -> None:
    a = PairedMoments(Moments(10, 5, 5), Moments(10, 10, 10), 5)
    b = PairedMoments(Moments(10, 8, 8), Moments(10, 10, 10), 8)
    assert cuped_slope((a, b)) == 0
    assert cuped_slope(()) == 0


def test_values_above_the_cap_count_as_the_cap() -> None:
    assert winsorised(np.array([-3.0, 0, 49, 50, 51, 1e9]), 50).tolist() == [-3, 0, 49, 50, 50, 50]
