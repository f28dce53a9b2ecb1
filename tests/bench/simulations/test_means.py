"""Our rules keep their promise in simulated experiments, the naive ones do not. `make simulations` has more runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.simulations import means
from bench.simulations.outcome import Outcome

RUNS = 250


def rates(check: Callable[[int, int], list[Outcome]]) -> dict[tuple[str, str], float]:
    """Rates by rule and truth, once those that were asked for are kept."""
    outcomes = check(RUNS, 11)
    for outcome in outcomes:
        assert outcome.kept, outcome
    return {(outcome.rule, outcome.truth): outcome.rate for outcome in outcomes}


def test_looking_a_hundred_times_is_harmless_and_would_fool_a_t_test() -> None:
    found = rates(means.often)
    assert 0.25 < found["naive: t-test at every look", "same"] < 0.5


def test_a_ramp_with_drift_is_harmless_by_stage_and_fools_whoever_pools_its_stages() -> None:
    found = rates(means.ramp)
    assert found["naive: stages pooled", "same"] > 0.5


def test_users_who_come_back_are_harmless_over_slices_and_fool_whoever_counts_requests() -> None:
    found = rates(means.sticky)
    assert found["naive: requests taken as independent", "same"] > 0.3


def test_a_small_canary_keeps_alpha_with_the_pooled_variance_and_not_with_its_own_slices() -> None:
    outcomes = means.canary(RUNS, 11)
    assert all(outcome.kept for outcome in outcomes), outcomes
    own = [o.rate for o in outcomes if o.rule.startswith("naive") and o.truth == "same"]
    assert min(own) > 0.12
    at_half_percent = {o.rule: o.rate for o in outcomes[4:] if o.truth == "rate doubled"}
    assert at_half_percent["variance in common"] > at_half_percent["naive: each variant's own slices"] + 0.05


def test_exactly_at_the_margin_neither_harm_nor_health_is_found() -> None:
    assert all(outcome.kept for outcome in means.margins(RUNS, 11))


def test_a_cap_keeps_alpha_and_power_where_no_variance_exists() -> None:
    outcomes = means.heavy_tails(RUNS, 11)
    assert all(outcome.kept for outcome in outcomes), outcomes
    power = {(o.check, o.rule): o.rate for o in outcomes if o.truth == "cost x 1.2"}
    for check, rule in power:
        if rule == "capped at p99":
            assert power[check, rule] > power[check, "not capped"] + 0.2


def test_a_run_with_the_same_seed_finds_the_same() -> None:
    assert means.often(60, 5) == means.often(60, 5)
    assert pytest.approx(means.often(60, 5)[1].rate) != 0
