"""Sample-ratio mismatch: published numbers, laws and robustness."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln, xlogy

from abmesh.inference.numbers import Floats
from abmesh.inference.sample_ratio import chi_square_p, dispersion, log_e_sample_ratio, sample_ratio

HALVES = (0.5, 0.5)


def spread(total: float, slices: int = 50) -> Floats:
    return np.random.default_rng(int(total)).multinomial(int(total), [1 / slices] * slices).astype(np.float64)


def test_hillstroms_e_mail_test_as_published() -> None:
    third = (1 / 3, 1 / 3, 1 / 3)
    assert chi_square_p((21_307, 21_306, 21_387), third) == pytest.approx(0.9037, abs=5e-5)
    assert log_e_sample_ratio(np.array([21_307.0, 21_306, 21_387]), np.array(third)) < 0


@given(st.floats(0, 1e12), st.floats(0, 1e12), st.floats(0.001, 0.999))
def test_two_variants_are_the_beta_form(a: float, b: float, share: float) -> None:
    both = log_e_sample_ratio(np.array([a, b]), np.array([1 - share, share]), 100.0)
    prior = 100 * (1 - share), 100 * share
    single = float(betaln(prior[0] + a, prior[1] + b) - betaln(*prior) - xlogy(a, 1 - share) - xlogy(b, share))
    assert math.isfinite(both)
    # Sums of gamma functions of 1e12 keep some digits fewer than the Beta function.
    assert both == pytest.approx(single, rel=1e-6, abs=1e-3 + 1e-14 * (a + b) * math.log1p(a + b))


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=6), st.randoms())
def test_relabelling_the_variants_changes_nothing(counts: list[int], random: Random) -> None:
    shares = np.arange(1.0, len(counts) + 1)
    shares /= shares.sum()
    order = list(range(len(counts)))
    random.shuffle(order)
    n = np.array(counts, dtype=np.float64)
    assert log_e_sample_ratio(n[order], shares[order]) == pytest.approx(float(log_e_sample_ratio(n, shares)), abs=1e-6)


@given(st.floats(0.01, 0.99))
def test_one_more_identity_gains_nothing_on_average(share: float) -> None:
    shares = np.array([1 - share, share])
    assert (shares * np.exp(log_e_sample_ratio(np.eye(2), shares))).sum() == pytest.approx(1)


def test_a_variant_without_a_share_is_left_out() -> None:
    shares = np.array([0.6, 0.4, 0.0])
    kept = log_e_sample_ratio(np.array([600.0, 400.0]), shares[:2])
    assert log_e_sample_ratio(np.array([600.0, 400.0, 7.0]), shares) == pytest.approx(float(kept))
    assert chi_square_p((600, 400, 7), shares.tolist()) == pytest.approx(chi_square_p((600, 400), (0.6, 0.4)))


def test_dispersion_is_one_for_users_of_one_request_and_their_number_otherwise() -> None:
    once = spread(50_000)
    assert dispersion([once, spread(2_500)]) == pytest.approx(1, abs=0.5)
    assert dispersion([20 * once, 20 * spread(2_500)]) == pytest.approx(20, rel=0.4)


def test_dispersion_is_pearsons_statistic_over_its_degrees_of_freedom() -> None:
    assert dispersion([np.array([1.0, 3.0]), np.array([10.0, 30.0])]) == pytest.approx((2 / 2 + 200 / 20) / 2)


@pytest.mark.parametrize("slices", [[], [np.zeros(50), np.zeros(50)], [np.zeros(0), np.array([7.0])]])
def test_dispersion_of_too_little_is_one(slices: list[Floats]) -> None:
    assert dispersion(slices) == 1


def test_requests_in_lots_raise_no_alarm_that_identities_would_raise() -> None:
    lots, identities = (20 * spread(1_000), 20 * spread(1_080)), (spread(20_000), spread(21_600))
    assert not sample_ratio([(lots, HALVES)]).alarm
    assert sample_ratio([(identities, HALVES)]).alarm


def test_the_alarm_says_what_it_saw_over_stages() -> None:
    found = sample_ratio([((spread(9_500), spread(900)), (0.95, 0.05)), ((spread(4_900), spread(5_700)), HALVES)])
    assert found.alarm
    assert found.p < found.alpha == 0.01
    assert found.observed == pytest.approx((14_400 / 21_000, 6_600 / 21_000))
    assert found.expected == pytest.approx((15_180 / 21_000, 5_820 / 21_000))
    assert found.dispersion >= 1


@pytest.mark.parametrize("strata", [[], [((np.zeros(50), np.zeros(50)), HALVES)]])
def test_without_requests_there_is_no_alarm(strata: list[tuple[tuple[Floats, Floats], tuple[float, float]]]) -> None:
    found = sample_ratio(strata)
    assert (found.log_e, found.p, found.alarm, found.observed, found.dispersion) == (0, 1, False, (), 1)


def test_huge_counts_are_no_trouble() -> None:
    found = sample_ratio([((np.full(50, 1e12), np.full(50, 1.01e12)), HALVES)])
    assert found.alarm
    assert math.isfinite(found.log_e)
    assert chi_square_p((1e12, 1e12 + 1e6), HALVES) == pytest.approx(math.erfc(math.sqrt(0.25)), rel=1e-4)


def test_an_imbalance_that_returns_in_every_stage_counts_once() -> None:
    """The same users come back: six stages with one imbalance say no more than one of them."""
    stage = ([spread(10_300), spread(9_700)], HALVES)
    once = sample_ratio([stage])
    assert once.log_e > 0
    assert sample_ratio([stage] * 6).log_e == pytest.approx(once.log_e)


def test_a_stage_that_begins_takes_its_part_of_the_mean_and_one_without_requests_none() -> None:
    stage = ([spread(11_000), spread(9_000)], HALVES)
    as_it_should = ([spread(10_000), spread(10_000)], HALVES)
    once = sample_ratio([stage]).log_e
    assert sample_ratio([stage, as_it_should]).log_e == pytest.approx(once - math.log(2))
    assert sample_ratio([stage, ([spread(0), spread(0)], HALVES)]).log_e == pytest.approx(once)
