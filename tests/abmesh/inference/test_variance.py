from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.numbers import Slices
from abmesh.inference.variance import design_effect, freedom, rate, request_variance

COUNTS = st.integers(0, 10**12).map(float)
SLICES = st.lists(st.tuples(COUNTS, st.floats(0, 1)), min_size=5, max_size=5).map(
    lambda pairs: Slices(np.array([n for n, _ in pairs]), np.array([np.floor(n * part) for n, part in pairs]))
)


def arm(n: list[float], y: list[float]) -> Slices:
    return Slices(np.array(n), np.array(y))


def drawn(seed: int, slices: int = 50, requests: float = 200.0, p: float = 0.1) -> tuple[Slices, Slices]:
    rng = np.random.default_rng(seed)
    n = rng.poisson(requests, (2, slices)).astype(float)
    y = rng.binomial(n.astype(int), p).astype(float)
    return Slices(n[0], y[0]), Slices(n[1], y[1])


def test_a_rate_without_requests_is_0() -> None:
    assert rate(arm([0, 0], [0, 0])) == 0
    assert rate(arm([3, 1], [1, 1])) == 0.5


def test_the_variance_between_slices_is_the_delta_methods() -> None:
    # R = 1/2; residuals 1 - 1, 3 - 2 and 0 - 1 over 8 requests: 3/2 * 2 / 8.
    nobody = arm([0, 0, 0], [0, 0, 0])
    assert request_variance(nobody, arm([2, 4, 2], [1, 3, 0])) == pytest.approx(3 / 8)


def test_the_variance_per_request_of_independent_events_is_that_of_a_share() -> None:
    a, b = drawn(3, slices=2_000)
    assert request_variance(a, b) == pytest.approx(0.09, rel=0.08)


def test_a_large_difference_does_not_pass_for_a_spread_between_slices() -> None:
    n = np.full(50, 1_000.0)
    a, b = Slices(n, 0.1 * n), Slices(n, 0.5 * n)
    noise = np.where(np.arange(50) % 2, 10.0, -10.0)
    a, b = Slices(n, a.y + noise), Slices(n, b.y + noise)
    own = request_variance(a, b)
    assert own == pytest.approx(50 / 49 * 0.1)
    assert request_variance(a, b, own_from=np.inf) > 100 * own


def test_a_few_events_are_compared_with_the_common_rate() -> None:
    n = np.full(50, 1_000.0)
    few = np.zeros(50)
    few[:5] = 1
    a, b = Slices(n, np.where(np.arange(50) % 2, 6.0, 0.0)), Slices(n / 20, few)
    assert request_variance(a, b) == request_variance(a, b, own_from=50.0)
    assert request_variance(a, b) != request_variance(a, b, own_from=0.0)


def test_slices_without_an_event_prove_nothing_about_a_share() -> None:
    n = np.full(50, 2.0)
    control, candidate = Slices(n * 20, n * 0.2), Slices(n, n * 0)
    plain = request_variance(control, candidate)
    floored = request_variance(control, candidate, share=True)
    assert floored > 10 * plain
    assert floored == pytest.approx(0.0095, rel=0.01)


def test_one_slice_says_nothing_about_the_spread() -> None:
    one = arm([10], [2])
    assert np.isinf(request_variance(one, one))


def test_degrees_of_freedom_are_those_of_two_equal_variants_or_of_one_large_one() -> None:
    equal = arm([10] * 20, [1] * 20)
    tiny = arm([1e-6] * 20, [0] * 20)
    assert freedom(equal, equal) == pytest.approx(38)
    assert freedom(equal, tiny) == pytest.approx(19)


def test_the_design_effect_is_at_least_1_and_safe_at_the_ends() -> None:
    assert design_effect(0.72, 0.1) == pytest.approx(8)
    assert design_effect(0.01, 0.1) == 1
    assert design_effect(np.array([0.0, 1.0]), np.array([0.0, 1.0])).tolist() == [1, 1]


@given(SLICES, SLICES, st.booleans())
def test_any_counts_give_numbers_at_least_0(a: Slices, b: Slices, share: bool) -> None:
    assert request_variance(a, b, share=share) >= 0
    assert freedom(a, b) >= 1


@given(st.integers(0, 10**6), st.floats(1e-3, 1e9))
def test_scaling_the_unit_scales_variances_by_its_square(seed: int, unit: float) -> None:
    a, b = drawn(seed)
    scaled = request_variance(Slices(a.n, unit * a.y), Slices(b.n, unit * b.y))
    assert scaled == pytest.approx(unit**2 * float(request_variance(a, b)), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_leading_axes_are_computed_at_once(seed: int, slices: int) -> None:
    a, b = drawn(seed, slices=slices + 1)
    both = Slices(np.stack([a.n, b.n]), np.stack([a.y, b.y]))
    swapped = Slices(both.n[::-1], both.y[::-1])
    assert request_variance(both, swapped)[0] == pytest.approx(float(request_variance(a, b)))
