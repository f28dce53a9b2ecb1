"""Latency tests keep their promise in simulated experiments. `make simulations` has more runs."""

from __future__ import annotations

from bench.simulations import quantiles

RUNS = 500


def test_independent_requests_are_compared_without_false_alarms_and_ten_percent_is_found() -> None:
    assert all(outcome.kept for outcome in quantiles.independent(RUNS, 11))


def test_users_who_are_slow_throughout_fool_whoever_counts_requests_and_not_the_deflated_counts() -> None:
    outcomes = quantiles.sticky(RUNS, 11)
    assert all(outcome.kept for outcome in outcomes), outcomes
    assert min(o.rate for o in outcomes if o.rule == "M3 without design effect") > 0.5


def test_exactly_at_the_margin_of_a_quantile_neither_harm_nor_health_is_found() -> None:
    outcomes = quantiles.margins(RUNS, 11)
    assert all(outcome.kept for outcome in outcomes), outcomes
