from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.inference.cumulative import Cumulative
from abmesh.inference.edges import edge_deflator, edge_design_effect, edges_around, level_deflator, spread_edges
from abmesh.inference.histogram import Bins, exceeding, merge, quantile, size
from abmesh.inference.numbers import Interval, Side
from abmesh.inference.quantiles import Latencies, log_e_quantile, quantile_band, quantile_ratio_interval

MIRRORED = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER, Side.TWO_SIDED: Side.TWO_SIDED}
BINS = st.dictionaries(
    st.integers(0, 9).map(lambda n: (float(n), 1.0)) | st.integers(1, 9).map(lambda n: (n * 10.0, 10.0)),
    st.integers(1, 10**12),
    max_size=12,
)
LIMITS = st.floats(0, 120) | st.integers(0, 12).map(lambda n: n * 10.0)


def binned(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], unit: float = 1.0) -> Bins:
    """Whole milliseconds, or whatever the unit is."""
    lower, counts = np.unique(np.floor(values), return_counts=True)
    return {(float(key) * unit, unit): int(count) for key, count in zip(lower, counts, strict=True)}


def groups(seed: int, factor: float = 1.0, requests: int = 400, unit: float = 1.0) -> list[Bins]:
    rng = np.random.default_rng(seed)
    return [binned(factor * rng.lognormal(4, 0.6, requests), unit) for _ in range(10)]


def stratum(seed: int, factor: float = 1.0, unit: float = 1.0) -> Latencies:
    a, b = groups(seed, unit=unit), groups(seed + 1, factor, 200, unit)
    return Latencies(Cumulative.of(a), Cumulative.of(b), edges_around(merge(a), 0.9))


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


def test_edges_lie_on_bounds_of_bins_around_the_quantile() -> None:
    control = merge(groups(1))
    edges = edges_around(control, 0.95)
    bounds = {bound for lower, width in control for bound in (lower, lower + width)}
    assert set(edges.tolist()) <= bounds
    shares = [exceeding(control, edge) / size(control) for edge in edges]
    assert shares == pytest.approx([0.075, 0.05, 0.0333], rel=0.1)
    assert len(spread_edges(control)) == 5
    with pytest.raises(ValueError, match="empty"):
        edges_around({}, 0.95)


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


def test_a_variant_that_says_nothing_does_not_water_down_the_other() -> None:
    n = np.full(10, 100.0)
    clustered = np.array([50.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    alone = edge_design_effect(clustered, n, np.zeros(0), np.zeros(0))
    assert alone == edge_design_effect(clustered, n, np.zeros(10), n)
    assert alone == edge_design_effect(clustered, n, np.array([30.0]), np.array([60.0]))
    assert edge_design_effect(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)) == 1


def test_a_deflator_reckons_with_common_events_and_with_few_groups() -> None:
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


def test_a_slower_candidate_is_found_and_a_margin_forgives_it() -> None:
    strata = [stratum(5, 1.3)]
    wanted = -math.log(0.05)
    assert log_e_quantile(strata, side=Side.GREATER) > wanted
    assert log_e_quantile(strata, side=Side.LESS) < 0
    assert log_e_quantile(strata, side=Side.GREATER, scale=1.3) < wanted
    assert log_e_quantile(strata, side=Side.LESS, scale=2.0) > wanted
    assert log_e_quantile(strata, side=Side.LESS, offset=300.0) > wanted
    assert log_e_quantile([], side=Side.GREATER) == 0


def test_strata_add_their_evidence_whatever_their_number_of_groups() -> None:
    one, other = stratum(5, 1.2), stratum(50, 1.2)
    fewer = Latencies(other.a, Cumulative.of(groups(51, 1.2, 500)[:4]), other.edges)
    both = log_e_quantile([one, fewer], side=Side.GREATER)
    assert both > log_e_quantile([one], side=Side.GREATER)
    assert both == pytest.approx(log_e_quantile([fewer, one], side=Side.GREATER))
    empty = Latencies(one.a, Cumulative.of([{}]), one.edges)
    assert log_e_quantile([one, empty], side=Side.GREATER) == pytest.approx(log_e_quantile([one], side=Side.GREATER))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(list(Side)))
def test_swapping_the_variants_swaps_the_sides(seed: int, side: Side) -> None:
    one = stratum(seed, 1.1)
    swapped = Latencies(one.b, one.a, one.edges)
    mirrored = log_e_quantile([swapped], side=MIRRORED[side])
    assert log_e_quantile([one], side=side) == pytest.approx(mirrored, rel=1e-9, abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 0.5, 1e6]))
def test_scaling_the_unit_changes_nothing_but_the_unit(seed: int, unit: float) -> None:
    plain, scaled = stratum(seed, 1.1), stratum(seed, 1.1, unit)
    assert scaled.edges == pytest.approx(unit * plain.edges)
    assert log_e_quantile([scaled], side=Side.GREATER) == pytest.approx(
        log_e_quantile([plain], side=Side.GREATER), rel=1e-6, abs=1e-6
    )
    ratios = [quantile_ratio_interval([item], 0.05) for item in (plain, scaled)]
    assert ratios[0].lower == pytest.approx(ratios[1].lower, rel=1e-6)
    assert ratios[0].upper == pytest.approx(ratios[1].upper, rel=1e-6)
    bands = [quantile_band(item.b, 0.9, 0.05) for item in (plain, scaled)]
    assert bands[1].lower == pytest.approx(unit * bands[0].lower, rel=1e-5)
    assert bands[1].upper == pytest.approx(unit * bands[0].upper, rel=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_the_interval_holds_what_is_not_rejected(seed: int) -> None:
    strata = [stratum(seed, 1.2)]
    found = quantile_ratio_interval(strata, 0.05)
    assert found.lower < 1.2 < found.upper
    wanted = -math.log(0.025)
    assert log_e_quantile(strata, side=Side.GREATER, scale=found.lower * 0.99) > wanted
    assert log_e_quantile(strata, side=Side.LESS, scale=found.upper * 1.01) > wanted
    assert log_e_quantile(strata, side=Side.GREATER, scale=found.lower * 1.01) < wanted
    assert quantile_ratio_interval(strata, 0.05, side=Side.GREATER).upper == math.inf
    assert quantile_ratio_interval(strata, 0.05, side=Side.LESS).lower == 0


def test_nothing_seen_is_nothing_known() -> None:
    empty = Cumulative.of([{}])
    everything = Interval(0.0, math.inf)
    assert quantile_ratio_interval([], 0.05) == everything
    assert quantile_ratio_interval([Latencies(empty, empty, np.array([1.0]))], 0.05) == everything
    assert quantile_band(empty, 0.95, 0.05) == everything
    assert quantile_band(Cumulative.of([{(10.0, 1.0): 2}, {(20.0, 1.0): 1}]), 0.95, 0.05) == everything


def at_once(share: float, requests: int = 4_000) -> Cumulative:
    """Groups of which a share of the requests takes 0 ms, for which Envoy has a bin without a width."""
    none = round(requests * share)
    return Cumulative.of([{(0.0, 0.0): none, (5.0, 1.0): requests - none} for _ in range(10)])


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6, 0.9, 1.0])
def test_most_requests_may_take_no_time_at_all(share: float) -> None:
    groups = at_once(share)
    band = quantile_band(groups, 0.5, 0.05)
    value = groups.quantile(0.5)
    assert value is not None
    assert value in band
    # Surely more than half of the requests take 0 ms, so that the median is 0 for sure.
    assert (band == Interval(0.0, 0.0)) == (share in {0.6, 0.9})
    for other in (0.4, 0.6, 1.0):
        found = quantile_ratio_interval([Latencies(groups, at_once(other), np.array([value]))], 0.05)
        assert found.lower <= found.upper


def test_a_band_narrows_with_the_requests_and_holds_the_quantile() -> None:
    true = math.exp(4 + 0.6 * 1.2815515655446004)
    few, many = (quantile_band(Cumulative.of(groups(3, requests=n)), 0.9, 0.05) for n in (100, 4_000))
    assert few.lower < many.lower < true < many.upper < few.upper
    assert quantile_band(Cumulative.of(groups(3)), 0.9, 0.05, side=Side.LESS).lower == 0
    assert quantile_band(Cumulative.of(groups(3)), 0.9, 0.05, side=Side.GREATER).upper == math.inf


@given(st.lists(BINS, min_size=1, max_size=3), st.lists(BINS, min_size=1, max_size=3))
def test_any_counts_give_a_number(a: list[Bins], b: list[Bins]) -> None:
    one = Latencies(Cumulative.of(a), Cumulative.of(b), np.array([0.0, 5.0, 40.0]))
    for side in Side:
        assert math.isfinite(log_e_quantile([one], side=side, scale=1.1))
