from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.cumulative import Cumulative
from abmesh.inference.edges import edge_deflator, edge_design_effect, level_deflator
from abmesh.inference.histogram import Bins, merge, quantile, size

BINS = st.dictionaries(
    st.integers(0, 9).map(lambda n: (float(n), 1.0)) | st.integers(1, 9).map(lambda n: (n * 10.0, 10.0)),
    st.integers(1, 10**12),
    max_size=12,
)
LIMITS = st.floats(0, 120) | st.integers(0, 12).map(lambda n: n * 10.0)


def exceeding(bins: Bins, limit: float) -> float:
    """How many values are above a limit: a fraction of the bin that holds it, whose values are spread evenly."""
    total = 0.0
    for (lower, width), count in bins.items():
        if lower >= limit and (lower > limit or width > 0):
            total += count
        elif lower + width > limit:
            total += count * (lower + width - limit) / width
    return total


@given(st.lists(BINS, min_size=1, max_size=4), st.lists(LIMITS, min_size=1, max_size=5), st.floats(0, 1))
def test_many_limits_at_once_are_what_one_by_one_would_be(parts: list[Bins], limits: list[float], share: float) -> None:
    laid_out = Cumulative.of(parts)
    expected = [[exceeding(part, limit) for part in parts] for limit in limits]
    scale = max(size(part) for part in parts) or 1
    np.testing.assert_allclose(laid_out.exceeding(np.array(limits)) / scale, np.array(expected) / scale, atol=1e-9)
    value, plain = laid_out.quantile(share), quantile(merge(parts), share)
    assert (value is None) == (plain is None)
    if value is not None:
        # Where two bins meet across a gap, rounding may choose either side of it; the share above is the same.
        assert exceeding(merge(parts), value) == pytest.approx(
            exceeding(merge(parts), plain or 0.0), abs=1e-6 * scale * 4
        )
    assert laid_out.whole.exceeding(np.array(limits)).sum() == pytest.approx(
        laid_out.exceeding(np.array(limits)).sum(), abs=1e-6 * scale
    )


def test_groups_of_users_who_agree_have_a_design_effect() -> None:
    n = np.full(10, 100.0)
    independent = np.array([5.0, 7, 3, 5, 4, 6, 5, 5, 8, 2])
    assert edge_design_effect(independent, n, independent, n) == 1
    clustered = np.array([50.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    # Variance between groups 225 of an expected 4.75, each variant on its own.
    assert edge_design_effect(clustered, n, clustered, n) == pytest.approx(250 / 4.75)


def test_a_difference_between_variants_is_none_between_users() -> None:
    n = np.full(10, 1_000.0)
    noise = np.array([2.0, -2, 2, -2, 2, -2, 2, -2, 2, -2])
    assert edge_design_effect(100 + noise, n, 500 + noise, n) == 1


def test_a_variant_without_information_does_not_dilute_the_other() -> None:
    n = np.full(10, 100.0)
    clustered = np.array([50.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    alone = edge_design_effect(clustered, n, np.zeros(0), np.zeros(0))
    assert alone == edge_design_effect(clustered, n, np.zeros(10), n)
    assert alone == edge_design_effect(clustered, n, np.array([30.0]), np.array([60.0]))
    assert edge_design_effect(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)) == 1


def test_a_deflator_allows_for_common_events_and_few_groups() -> None:
    n = np.full(10, 1_000.0)
    noise = np.array([2.0, -2, 2, -2, 2, -2, 2, -2, 2, -2])
    # phi = 1 with twice nine degrees of freedom.
    assert edge_deflator(500 + noise, n, 500 + noise, n) == pytest.approx(0.5 * 18 / 16)
    assert edge_deflator(50 + noise, n, 50 + noise, n) == pytest.approx(0.95 * 18 / 16)
    assert edge_deflator(500 + noise, n, (500 + noise) * 1e-9, n * 1e-9) == pytest.approx(0.5 * 9 / 7)


def test_a_level_is_tested_with_an_estimated_design_effect_too() -> None:
    n = np.full(10, 1_000.0)
    noise = np.array([2.0, -2, 2, -2, 2, -2, 2, -2, 2, -2])
    assert level_deflator(500 + noise, n, 500 + noise, n) == pytest.approx(18 / 16)
    assert level_deflator(50 + noise, n, np.zeros(0), np.zeros(0)) == pytest.approx(9 / 7)
    assert level_deflator(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)) == 1
