"""Users send 1 to 50 requests each, and what becomes of a request depends on who sent it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from statistics import mean

import pytest

from bench.rollouts.people import MOST_REQUESTS, fails, traits, visits, with_heavy


def test_users_send_1_to_50_requests_and_then_do_not_come_back() -> None:
    users = list(islice(visits("x", 1), 60_000))
    sent = Counter(users)
    still_here = {f"x-1-{number}" for number in range(len(sent) - 2_000, len(sent) + 1)} | set(users[-5_000:])
    gone = [count for user, count in sent.items() if user not in still_here]
    assert (min(gone), max(gone)) == (1, MOST_REQUESTS)
    assert 10 < mean(gone) < 14


def test_the_same_seed_brings_the_same_users_and_another_name_others() -> None:
    assert list(islice(visits("x", 1), 500)) == list(islice(visits("x", 1), 500))
    assert not set(islice(visits("x", 1), 500)) & set(islice(visits("y", 1), 500))
    assert not set(islice(visits("x", 1), 500)) & set(islice(visits("x", 2), 500))


def test_users_error_rates_have_the_mean_that_was_asked_for_and_differ() -> None:
    rates = [traits(f"user-{number}", 0.1).error_rate for number in range(5_000)]
    assert mean(rates) == pytest.approx(0.1, abs=0.005)
    variance = mean((rate - 0.1) ** 2 for rate in rates)
    assert variance == pytest.approx(0.1 * 0.9 / 11, rel=0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_and_all_mean_what_they_say(rate: float) -> None:
    assert all(fails("user", number, rate, 1.0) == (rate == 1.0) for number in range(100))


def test_a_request_fails_or_not_whenever_it_is_sent_and_a_factor_only_adds_failures() -> None:
    asked = [(f"user-{number // 10}", number % 10) for number in range(20_000)]
    once = [fails(user, number, 0.1, 1.0) for user, number in asked]
    assert once == [fails(user, number, 0.1, 1.0) for user, number in asked]
    doubled = [fails(user, number, 0.1, 2.0) for user, number in asked]
    assert all(more or not less for less, more in zip(once, doubled, strict=True))
    assert mean(once) == pytest.approx(0.1, abs=0.015)
    assert mean(doubled) == pytest.approx(0.2, abs=0.03)


def test_a_heavy_user_sends_a_share_of_all_requests_among_those_of_the_others() -> None:
    sent = Counter(islice(with_heavy(visits("x", 1), {"one": 0.3, "two": 0.1}, 1), 20_000))
    assert sent["one"] / 20_000 == pytest.approx(0.3, abs=0.01)
    assert sent["two"] / 20_000 == pytest.approx(0.1, abs=0.01)
    others = list(islice(visits("x", 1), 5_000))
    assert list(islice(with_heavy(visits("x", 1), {}, 1), 5_000)) == others


def test_a_users_own_error_rate_takes_the_place_of_everybodys() -> None:
    assert mean(fails("user", number, 0.1, 5.0, 0.3) for number in range(5_000)) == pytest.approx(0.3, abs=0.02)
    assert not any(fails("user", number, 1.0, 1.0, 0.0) for number in range(100))
