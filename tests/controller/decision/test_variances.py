"""How uncertain slices of users make a value: whose dispersion counts, and when there is too little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from abmesh.inference.numbers import Slices
from abmesh.inference.variance import own_variance
from controller.decision.variances import SliceVariances, candidate_design_effect, share_design_effect

SLICES = 50


def _even(n: float, y: float) -> Slices:
    """Slices that are as alike as independent requests."""
    wave = np.sqrt(y / n * (1 - y / n) * n) * np.where(np.arange(SLICES) % 2, 1.0, -1.0)
    return Slices(np.full(SLICES, n), np.full(SLICES, y) + wave)


def _uneven(n: float, y: float, every: int = 5) -> Slices:
    """All that happens is in every so-manieth slice."""
    return Slices(np.full(SLICES, n), np.where(np.arange(SLICES) % every, 0.0, y * every))


def test_a_limit_takes_the_candidates_own_dispersion_whatever_the_controls_users_are_like() -> None:
    """One user with a third of the control's traffic made it 19.6, where the candidate's own was 1.1."""
    assert candidate_design_effect(_uneven(1000, 100), _even(100, 10)) == pytest.approx(1, abs=0.1)
    assert candidate_design_effect(_even(1000, 100), _uneven(100, 10)) > 4


@pytest.mark.parametrize("few", [_even(100, 0.2), Slices(np.full(SLICES, 100.0), np.full(SLICES, 99.8))])
def test_a_share_of_few_events_or_with_few_requests_without_one_takes_no_less_than_both(few: Slices) -> None:
    """Ten of them are alike by chance."""
    rate = few.total_y / few.total_n
    control = _uneven(1000, 100) if rate < 0.5 else Slices(np.full(SLICES, 1000.0), 1000 - _uneven(1000, 100).y)
    assert candidate_design_effect(control, few) > 4


def test_a_comparison_takes_no_less_than_either_variants_own() -> None:
    busy, quiet = _uneven(100, 10), _even(10_000, 1000)
    for a, b in ((quiet, busy), (busy, quiet)):
        assert share_design_effect(a, b) > 4
        compared = SliceVariances.of([(a, b)]).compared(1.0, 0.0)
        assert float(compared[0]) == pytest.approx(own_variance(busy), rel=0.01)


def test_the_variance_of_what_is_higher_is_taken_at_the_mean_of_both() -> None:
    """Or more harm would be less certain, since the variance of events grows with their rate."""
    low, high = _even(1000, 10), _uneven(1000, 90)
    compared = SliceVariances.of([(low, high)]).compared(1.0, 0.0)
    assert compared < 0.7 * own_variance(high)


def test_of_few_slices_all_events_of_one_are_one() -> None:
    n, y = np.zeros(SLICES), np.zeros(SLICES)
    n[:5], y[4] = [100, 100, 100, 100, 600], 600
    assert share_design_effect(_even(1000, 10), Slices(n, y)) >= 600


def test_a_mean_needs_enough_slices_of_both_variants_and_a_limit_those_of_the_candidate() -> None:
    few = Slices(np.where(np.arange(SLICES) < 9, 100.0, 0.0), np.where(np.arange(SLICES) < 9, 50.0, 0.0))
    many = _even(100, 50)
    assert np.isinf(SliceVariances.of([(few, many)]).compared(1.0, 0.0))
    assert np.isinf(SliceVariances.of([(many, few)]).compared(1.0, 0.0))
    assert np.isfinite(SliceVariances.of([(few, many)]).candidate())
    assert np.isinf(SliceVariances.of([(many, few)]).candidate())
