from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.cumulative import Cumulative
from abmesh.inference.histogram import Bins, merge, quantile, size, without

# Envoy's bins do not overlap: two significant digits.
BINS = st.dictionaries(
    st.integers(0, 9).map(lambda n: (float(n), 1.0)) | st.integers(1, 9).map(lambda n: (n * 10.0, 10.0)),
    st.integers(1, 10**6),
    max_size=12,
)


def exceeding(bins: Bins, limit: float) -> float:
    return float(Cumulative.of([bins]).exceeding(np.array(limit))[0])


def test_a_quantile_is_interpolated_inside_its_bin() -> None:
    bins = {(100.0, 10.0): 50, (200.0, 10.0): 50}
    assert quantile(bins, 0.25) == 105.0
    assert quantile(bins, 0.75) == 205.0
    assert quantile(bins, 1.0) == 210.0


@given(BINS, BINS)
def test_a_part_is_taken_out_bin_by_bin(bins: Bins, part: Bins) -> None:
    assert without(merge([bins, part]), part) == bins


def test_no_bin_becomes_negative() -> None:
    """The two may be read a moment apart, and a part may have a bin that the whole lacks."""
    assert without({(1.0, 1.0): 2, (2.0, 1.0): 5}, {(1.0, 1.0): 3, (2.0, 1.0): 4, (9.0, 1.0): 1}) == {(2.0, 1.0): 1}


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None


def test_the_bin_of_zero_has_no_width() -> None:
    assert quantile({(0.0, 0.0): 3}, 0.95) == 0.0
    assert exceeding({(0.0, 0.0): 3}, 0.0) == 0


def test_exceeding_takes_the_fraction_of_the_bin_above_the_limit() -> None:
    bins = {(100.0, 10.0): 10, (200.0, 10.0): 5}
    assert exceeding(bins, 50) == 15
    assert exceeding(bins, 104) == pytest.approx(11)
    assert exceeding(bins, 110) == 5
    assert exceeding(bins, 200) == 5
    assert exceeding(bins, 300) == 0


@given(st.lists(BINS, max_size=4))
def test_merging_keeps_every_value_whatever_the_order(parts: list[dict[tuple[float, float], int]]) -> None:
    assert merge(parts) == merge(list(reversed(parts)))
    assert size(merge(parts)) == sum(size(part) for part in parts)


@given(BINS, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise(bins: dict[tuple[float, float], int], first: float, second: float) -> None:
    low, high = sorted((first, second))
    at_low, at_high = quantile(bins, low), quantile(bins, high)
    if at_low is not None and at_high is not None:
        assert at_low <= at_high + 1e-9


@given(BINS, st.floats(0.01, 0.99), st.floats(0, 120))
def test_a_quantile_above_a_limit_and_a_share_above_it_are_the_same(
    bins: dict[tuple[float, float], int], share: float, limit: float
) -> None:
    value = quantile(bins, share)
    if value is None or math.isclose(value, limit, abs_tol=1e-3):
        return
    above = exceeding(bins, limit) / size(bins)
    # Between two bins nothing lies, so that any value there is the same quantile.
    if not math.isclose(above, 1 - share, abs_tol=1e-6):
        assert (value > limit) == (above > 1 - share)
