"""Slices as they count for a typical user: alike, and none that one busy user fills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.busiest import usual
from abmesh.inference.numbers import Floats, Slices
from abmesh.inference.users import typical


def value(arm: Slices) -> float:
    return float(arm.total_y / arm.total_n)


def weighed(n: Floats, y: Floats) -> Slices:
    return typical(Slices(n, y), usual(n))


def test_slices_alike_give_the_rate_of_all_requests() -> None:
    n, y = np.full(50, 40.0), np.arange(50.0) % 5
    found = weighed(n, y)
    assert found.n == pytest.approx(n)
    assert value(found) == pytest.approx(y.sum() / n.sum())


def test_one_user_of_a_third_of_the_traffic_is_left_out_and_counts_nothing() -> None:
    n, y = np.full(50, 40.0), np.full(50, 2.0)
    n[7], y[7] = 1000, 990
    kept = usual(n)
    assert not kept[7]
    assert kept.sum() == 49
    assert value(weighed(n, y)) == pytest.approx(0.05)
    assert (y.sum() / n.sum()) == pytest.approx(0.367, abs=0.001)


def test_a_slice_of_half_as_many_more_requests_weighs_as_the_median_one() -> None:
    n, y = np.full(11, 40.0), np.zeros(11)
    n[3], y[3] = 60, 60
    found = weighed(n, y)
    assert (found.n == found.n[0]).all()
    assert value(found) == pytest.approx(1 / 11)
    # The variance of eleven equal weights, one of which has two thirds of the others' variance.
    assert found.total_n == pytest.approx(1 / (10 / 40 + 1 / 60) * 121)


def test_where_slices_differ_much_a_large_one_is_nothing_unusual() -> None:
    alike, mixed = np.full(50, 40.0), 40.0 * np.exp(np.linspace(-2, 2, 50))
    assert not usual(np.append(alike, 200.0))[-1]
    assert usual(np.append(mixed, 200.0))[-1]


def test_few_requests_are_uneven_by_chance() -> None:
    n = np.array([1.0] * 30 + [2.0] * 15 + [4.0] * 5)
    assert usual(n).all()
    assert not usual(np.append(n, 40.0))[-1]


def test_slices_without_requests_count_nothing_and_change_nothing() -> None:
    n, y = np.array([4.0, 5.0, 6.0]), np.array([1.0, 0.0, 2.0])
    some = weighed(n, y)
    more = weighed(np.append(n, [0.0] * 20), np.append(y, [0.0] * 20))
    assert (more.n[:3] == some.n).all()
    assert (more.y[:3] == some.y).all()
    assert not more.n[3:].any()
    nothing = weighed(np.zeros(5), np.zeros(5))
    assert not nothing.n.any()
    assert not nothing.y.any()


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 1)), min_size=1, max_size=60))
def test_no_slice_counts_for_more_than_the_median_one_and_all_for_no_more_than_they_have(
    slices: list[tuple[int, float]],
) -> None:
    n = np.array([float(count) for count, _ in slices])
    y = n * np.array([rate for _, rate in slices])
    found, kept = weighed(n, y), usual(n)
    assert not found.n[~kept].any()
    assert found.total_n <= n[kept].sum() * (1 + 1e-9)
    if kept.any():
        # Whatever is above the median weighs as it does.
        heaviest = np.isclose(found.n, found.n.max())
        assert heaviest.sum() >= kept.sum() // 2
        assert -1e-9 <= value(found) <= 1 + 1e-9


def test_many_variants_at_once_are_weighed_one_by_one() -> None:
    random = np.random.default_rng(1)
    n = random.poisson(20, (4, 3, 50)).astype(float)
    n[2, 1, 5] = 900
    y = np.floor(n / 4)
    found = weighed(n, y)
    for row in range(4):
        for stratum in range(3):
            alone = weighed(n[row, stratum], y[row, stratum])
            assert (found.n[row, stratum] == alone.n).all()
            assert (found.y[row, stratum] == alone.y).all()
