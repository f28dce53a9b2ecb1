"""Which slices of users are left out, and how many the others are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.busiest import MOST, dominant, effective_slices, median, needed_slices
from abmesh.inference.numbers import Floats

REQUESTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=50).map(lambda n: np.array(n, dtype=np.float64))


@pytest.mark.parametrize(
    ("n", "out"),
    [
        ([1000.0] * 10, []),
        ([1000.0] * 9 + [1240], []),
        ([1000.0] * 9 + [1260], [9]),
        ([1000.0] * 8 + [50_000, 90_000], [8, 9]),
        # The third is unusual as well, but no more than a fifth of the slices is left out.
        ([1000.0] * 7 + [50_000, 60_000, 90_000], [8, 9]),
        ([1000.0] * 18 + [50_000, 50_000], [18, 19]),
        # Where slices differ much, more is usual; and so it is where they have few requests.
        ([100.0, 200, 300, 400, 500, 600, 700, 800, 900, 1500], []),
        ([800.0, 900, 1000, 1100, 1200, 800, 900, 1000, 1100, 1700], []),
        ([800.0, 900, 1000, 1100, 1200, 800, 900, 1000, 1100, 1750], [9]),
        ([10.0] * 9 + [25], []),
        ([5.0, 0, 0, 0], []),
        ([0.0, 0, 0], []),
    ],
)
def test_slices_that_send_far_more_than_is_usual_are_left_out(n: list[float], out: list[int]) -> None:
    assert np.flatnonzero(dominant(np.array(n))).tolist() == out


@given(REQUESTS, st.integers(0, 2))
def test_the_busiest_are_left_out_and_never_more_than_a_fifth_or_what_is_asked_for(n: Floats, least: int) -> None:
    out = dominant(n, least=least)
    seen = np.count_nonzero(n)
    assert min(least, seen) <= out.sum() <= max(least, int(MOST * seen))
    assert not (out & (n == 0)).any()
    if out.any() and not out.all():
        assert n[out].min() >= n[~out].max()


@given(st.lists(REQUESTS.filter(lambda n: n.size >= 5).map(lambda n: n[:5]), min_size=1, max_size=4))
def test_rows_are_looked_at_one_by_one(rows: list[Floats]) -> None:
    assert (dominant(np.array(rows)) == np.array([dominant(row) for row in rows])).all()


@given(REQUESTS, st.floats(0.1, 1000))
def test_the_unit_of_what_is_counted_changes_nothing(n: Floats, factor: float) -> None:
    assert effective_slices(n * factor) == pytest.approx(effective_slices(n))


@pytest.mark.parametrize(
    ("n", "worth"), [([7.0] * 50, 50.0), ([0.0] * 40 + [3.0] * 10, 10.0), ([100.0] + [0.0] * 9, 1.0), ([0.0], 0.0)]
)
def test_equally_busy_slices_are_worth_their_number(n: list[float], worth: float) -> None:
    assert effective_slices(np.array(n)) == pytest.approx(worth)


def test_a_slice_with_most_requests_leaves_few_effective_ones() -> None:
    assert effective_slices(np.array([500.0] + [10.0] * 50)) < 4


def test_few_slices_need_half_of_them() -> None:
    assert (needed_slices(50, 10), needed_slices(20, 10), needed_slices(10, 10)) == (10, 10, 5)


def test_a_median_is_over_some_values_and_between_two_in_the_middle() -> None:
    values = np.array([20.0, 1, 10, 2])
    for some, expected in (([1, 1, 1, 1], 6.0), ([1, 1, 0, 1], 2.0), ([0, 0, 1, 0], 10.0), ([0, 0, 0, 0], 0.0)):
        assert median(values, np.array(some, dtype=np.bool_)).tolist() == [expected]
