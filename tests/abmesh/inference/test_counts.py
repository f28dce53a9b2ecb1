"""Exact inference for counts: laws that hold for all counts, published forms, and robustness."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom

from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.difference import log_e_difference
from abmesh.inference.numbers import Floats, Side

COUNTS = st.one_of(
    st.just(0.0),
    st.integers(0, 100).map(float),
    st.floats(0, 1e4),
    st.sampled_from([1e6, 1e9, 1e12]),
    st.floats(0, 1e12),
)
SHARES = st.one_of(st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]), st.floats(1e-4, 1 - 1e-4))
ONE_SIDED = st.sampled_from([Side.GREATER, Side.LESS])
MIRRORED = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER, Side.TWO_SIDED: Side.TWO_SIDED}


def strata(element: st.SearchStrategy[float], size: int = 3) -> st.SearchStrategy[Floats]:
    return st.lists(element, min_size=size, max_size=size).map(np.array)


SMALL = strata(st.floats(0, 500))
INNER = strata(st.floats(0.02, 0.98))


@given(strata(COUNTS), strata(COUNTS), strata(SHARES), st.floats(-3, 3), st.sampled_from(Side))
def test_no_counts_break_the_rate_ratio(a: Floats, b: Floats, share: Floats, delta0: float, side: Side) -> None:
    assert math.isfinite(log_e_ratio(a, b, share, delta0, side=side))


@given(COUNTS, COUNTS, SHARES, st.sampled_from(Side))
def test_no_counts_break_a_share(yes: float, no: float, limit: float, side: Side) -> None:
    value = log_e_share(yes, yes + no, limit, side=side)
    assert not np.isnan(value)
    assert np.isfinite(value) or limit in (0, 1)


@given(strata(COUNTS), strata(COUNTS), strata(COUNTS), strata(COUNTS), st.floats(-1, 1), ONE_SIDED)
def test_no_counts_break_a_difference(
    s_a: Floats, no_a: Floats, s_b: Floats, no_b: Floats, margin: float, side: Side
) -> None:
    assert math.isfinite(log_e_difference(s_a, s_a + no_a, s_b, s_b + no_b, margin, side=side))


@given(SMALL, SMALL, INNER, st.floats(-2, 2), st.sampled_from(Side))
def test_swapping_the_variants_only_flips_signs(a: Floats, b: Floats, share: Floats, delta0: float, side: Side) -> None:
    swapped = log_e_ratio(b, a, 1 - share, -delta0, side=MIRRORED[side])
    assert log_e_ratio(a, b, share, delta0, side=side) == pytest.approx(swapped, abs=1e-7)


@given(SMALL, SMALL, SMALL, SMALL, st.floats(-0.5, 0.5), ONE_SIDED)
def test_swapping_the_variants_mirrors_the_difference(
    s_a: Floats, no_a: Floats, s_b: Floats, no_b: Floats, margin: float, side: Side
) -> None:
    here = log_e_difference(s_a, s_a + no_a, s_b, s_b + no_b, margin, side=side)
    there = log_e_difference(s_b, s_b + no_b, s_a, s_a + no_a, -margin, side=MIRRORED[side])
    assert here == pytest.approx(there, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20), st.integers(0, 10**6))
def test_however_envoys_are_merged_the_evidence_is_the_same(envoys: list[tuple[int, int]], seed: int) -> None:
    counts = np.array(envoys, dtype=np.float64)
    shuffled = np.random.default_rng(seed).permutation(counts)
    middle = len(counts) // 2
    merged = shuffled[:middle].sum(axis=0) + shuffled[middle:].sum(axis=0)
    share = np.array([0.2])
    whole = counts.sum(axis=0)
    assert log_e_ratio(whole[:1], whole[1:], share) == log_e_ratio(merged[:1], merged[1:], share)


@given(SMALL, SMALL, INNER, st.floats(-2, 2), st.floats(0.01, 1))
def test_one_sided_evidence_falls_with_the_ratio_under_the_null(
    a: Floats, b: Floats, share: Floats, delta0: float, more: float
) -> None:
    low = log_e_ratio(a, b, share, delta0, side=Side.GREATER)
    assert log_e_ratio(a, b, share, delta0 + more, side=Side.GREATER) <= low + 1e-9


@given(INNER, st.floats(-1, 1), st.floats(0, 2), ONE_SIDED)
def test_one_more_event_gains_nothing_on_average_anywhere_under_the_one_sided_null(
    share: Floats, delta0: float, away: float, side: Side
) -> None:
    delta = delta0 - away if side is Side.GREATER else delta0 + away
    rho = share[:1]
    theta = float(expit(logit(rho) + delta)[0])
    none, one = np.zeros(1), np.ones(1)
    expected = (1 - theta) * np.exp(log_e_ratio(one, none, rho, delta0, side=side))
    expected += theta * np.exp(log_e_ratio(none, one, rho, delta0, side=side))
    assert expected <= 1 + 1e-9


@given(
    st.floats(0.001, 0.9),
    st.floats(0, 0.9),
    st.floats(-0.5, 0.5),
    st.floats(0, 0.5),
    ONE_SIDED,
    st.just(1.0) | st.floats(0.01, 100),
)
def test_a_bet_on_the_difference_gains_nothing_on_average_anywhere_under_the_null(
    rho: float, p_a: float, margin: float, away: float, side: Side, scale: float
) -> None:
    """All outcomes of 20 requests, of which each arm has as many as its share says."""
    p_b = scale * p_a + margin - away if side is Side.GREATER else scale * p_a + margin + away
    if not 0 <= p_b <= 1:
        return
    n_b = round(20 * rho)
    n_a = 20 - n_b
    if not 0 < n_b < 20:
        return
    grid_a, grid_b = (x.ravel()[:, None].astype(np.float64) for x in np.meshgrid(range(n_a + 1), range(n_b + 1)))
    chances = [
        np.array([math.comb(n, int(s)) * p ** int(s) * (1 - p) ** (n - int(s)) for s in grid[:, 0]])
        for n, p, grid in ((n_a, p_a, grid_a), (n_b, p_b, grid_b))
    ]
    sizes = np.full_like(grid_a, n_a), np.full_like(grid_b, n_b)
    log_e = log_e_difference(grid_a, sizes[0], grid_b, sizes[1], margin, side=side, scale=scale)
    assert (chances[0] * chances[1] * np.exp(log_e)).sum() <= 1 + 1e-9


def test_stages_with_different_shares_and_base_rates_add_up_to_no_false_evidence() -> None:
    """Kohavi's reversal: the candidate wins on both days, and loses if the days are pooled."""
    n_a, n_b = np.array([990_000.0, 500_000.0]), np.array([10_000.0, 500_000.0])
    s_a, s_b = np.array([20_000.0, 5_000.0]), np.array([230.0, 6_000.0])
    share = n_b / (n_a + n_b)
    assert log_e_ratio(s_a, s_b, share, side=Side.GREATER) > math.log(20)
    assert log_e_difference(s_a, n_a, s_b, n_b, 0.0, side=Side.GREATER) > math.log(20)
    pooled = np.array([n_b.sum() / (n_a.sum() + n_b.sum())])
    assert log_e_ratio(s_a.sum(keepdims=True), s_b.sum(keepdims=True), pooled, side=Side.LESS) > math.log(20)


def test_a_canary_that_fails_outright_is_overwhelming_evidence() -> None:
    requests, errors = np.array([40.0]), np.array([20.0])
    control, control_errors = np.array([760.0]), np.array([8.0])
    wanted = math.log(1e6)
    assert log_e_ratio(control_errors, errors, np.array([0.05]), side=Side.GREATER) > wanted
    assert log_e_share(errors[0], requests[0], 0.05, side=Side.GREATER) > wanted
    assert log_e_difference(control_errors, control, errors, requests, 0.05, side=Side.GREATER) > wanted


def test_a_control_without_errors_hides_nothing() -> None:
    none, control = np.zeros(1), np.array([9_500.0])
    errors, requests = np.array([10.0]), np.array([500.0])
    assert log_e_difference(none, control, errors, requests, 0.003, side=Side.GREATER) > math.log(40)
    assert log_e_ratio(none, errors, np.array([0.05]), math.log(2), side=Side.GREATER) > math.log(40)
    assert log_e_difference(none, control, none, requests, 0.012, side=Side.LESS) > math.log(20)


FAR = 1.5


@pytest.mark.parametrize("ratio", [0.2, 0.8, 1.0])
def test_looking_for_large_ratios_keeps_an_e_value(ratio: float) -> None:
    """Whatever number of events there is, its expectation is at most 1 where the candidate is no worse."""
    share, events = 0.05, 60
    theta = share * ratio / (1 - share + share * ratio)
    b = np.arange(events + 1.0)
    log_e = [
        log_e_ratio(np.array([events - y]), np.array([y]), np.array([share]), side=Side.GREATER, far=FAR) for y in b
    ]
    assert (binom.pmf(b, events, theta) * np.exp(log_e)).sum() <= 1 + 1e-9


def test_a_tenfold_rate_is_found_with_few_events_and_small_ratios_pay_little() -> None:
    def both(a: float, b: float, share: float) -> list[float]:
        given = np.array([a]), np.array([b]), np.array([share])
        return [float(log_e_ratio(*given, side=Side.GREATER, far=size)) for size in (None, FAR)]

    near, far = both(16.0, 8.0, 0.048)
    assert near < math.log(40) < math.log(800) < far
    near, far = both(250.0, 327.0, 0.5)
    assert near - 0.3 < far < near


def test_a_ratio_of_shares_is_found_where_most_requests_have_the_event() -> None:
    """90% against 95%: the test for rare events, which knows the events alone, sees 1,800 and 1,900 of them."""
    s_a, n_a, s_b, n_b = (np.array([x]) for x in (1_800.0, 2_000.0, 1_900.0, 2_000.0))
    assert log_e_ratio(s_a, s_b, n_b / (n_a + n_b), side=Side.GREATER) < math.log(20)
    assert log_e_difference(s_a, n_a, s_b, n_b, 0.0, side=Side.GREATER) > math.log(40)
    assert log_e_difference(s_a, n_a, s_b, n_b, 0.0, side=Side.GREATER, scale=1.1) < 0


def test_strata_on_one_side_only_say_nothing() -> None:
    a, b = np.array([50.0, 900.0]), np.array([80.0, 0.0])
    share, n_a, n_b = np.array([0.5, 0.0]), np.array([1e3, 1e4]), np.array([1e3, 0.0])
    assert log_e_ratio(a, b, share) == pytest.approx(float(log_e_ratio(a[:1], b[:1], share[:1])))
    with_it = log_e_difference(a, n_a, b, n_b, 0.0, side=Side.GREATER)
    assert with_it == pytest.approx(float(log_e_difference(a[:1], n_a[:1], b[:1], n_b[:1], 0.0, side=Side.GREATER)))


def test_limits_at_the_ends_of_the_scale() -> None:
    assert log_e_share(1, 10, 0.0, side=Side.GREATER) == math.inf
    assert log_e_share(0, 10, 0.0, side=Side.GREATER) == 0
    assert log_e_share(5, 10, 0.0, side=Side.LESS) == 0
    assert log_e_share(10, 10, 1.0, side=Side.GREATER) == 0
    assert log_e_share(9, 10, 1.0, side=Side.LESS) == math.inf
    whole = (np.zeros(1), np.array([100.0]), np.array([100.0]), np.array([100.0]))
    assert log_e_difference(*whole, 1.0, side=Side.GREATER) == 0


def test_one_call_serves_many_moments() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.poisson(40, (2, 20, 3)).astype(np.float64)
    share, n = np.full((20, 3), 0.3), np.full((20, 3), 1000.0)
    delta0, margin = rng.normal(size=20) / 4, rng.uniform(-0.05, 0.05, 20)
    ratio = log_e_ratio(a, b, share, delta0, side=Side.LESS)
    difference = log_e_difference(a, n, b, n, margin, side=Side.GREATER)
    assert ratio.shape == difference.shape == (20,)
    for i in range(20):
        assert ratio[i] == pytest.approx(float(log_e_ratio(a[i], b[i], share[i], delta0[i], side=Side.LESS)))
        one = log_e_difference(a[i], n[i], b[i], n[i], margin[i], side=Side.GREATER)
        assert difference[i] == pytest.approx(float(one))


def test_a_difference_has_no_two_sided_e_value() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="half of alpha"):
        log_e_difference(one, one, one, one, 0.0, side=Side.TWO_SIDED)
