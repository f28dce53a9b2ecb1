from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment import metrics
from abmesh.inference.numbers import Side
from controller.decision.comparisons import compare
from controller.decision.intervals import increase_interval, level_interval
from tests.controller.decision.support import NOTHING, arm, evidence_of, stage

MIX = {80: 40, 100: 40, 150: 15, 300: 5}
EDGES = {"latency_p95": (300.0,)}
WANTED = math.log(20)


@given(st.sampled_from([60, 500, 5000]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_limits_of_a_rate_hold_the_rate_and_are_where_rejection_begins(n: int, per_mille: int) -> None:
    errors = n * per_mille // 1000
    found = compare(metrics.ERROR_RATE, evidence_of(arm(n), arm(n, errors)), 1000, 0.05)
    limits = level_interval(found, 0.05, share=True)
    assert 0 <= limits.lower <= errors / n <= limits.upper <= 1
    for side, limit in ((Side.GREATER, limits.lower), (Side.LESS, limits.upper)):
        if 0 < limit < 1:
            assert found.level(side, limit)[0] >= WANTED * (1 - 1e-9)
            assert found.level(side, (limit * 999 + errors / n) / 1000)[0] < WANTED


@pytest.mark.parametrize("name", ["error_rate", "latency_mean", "latency_p95"])
@pytest.mark.parametrize("relative", [True, False])
def test_limits_of_an_increase_hold_it_and_narrow_with_evidence(name: str, relative: bool) -> None:
    metric = metrics.MEASURED[name]
    widths = []
    for n in (1010, 10_010, 100_010):
        a, b = arm(n, n // 20, ms=MIX), arm(n, n // 20, ms=MIX)
        found = compare(metric, evidence_of(a, b, edges=EDGES), 1000, 0.05)
        limits = increase_interval(found, 0.05, relative=relative, share=metric.unit == "share")
        assert limits.lower <= 0 <= limits.upper
        widths.append(limits.upper - limits.lower)
    assert widths[0] > widths[1] > widths[2]
    assert math.isfinite(widths[2])


def test_more_certainty_is_wider() -> None:
    found = compare(metrics.ERROR_RATE, evidence_of(arm(500), arm(500, 20)), 1000, 0.05)
    sure, surer = level_interval(found, 0.05, share=True), level_interval(found, 0.001, share=True)
    assert surer.lower < sure.lower < 0.04 < sure.upper < surer.upper


def test_without_data_everything_is_possible() -> None:
    rate = compare(metrics.ERROR_RATE, evidence_of(arm(10), NOTHING), 1000, 0.05)
    everything = level_interval(rate, 0.05, share=True)
    assert (everything.lower, everything.upper) == (0.0, 1.0)
    mean = compare(metrics.LATENCY_MEAN, evidence_of(NOTHING, arm(10)), 1000, 0.05)
    for relative, low in ((True, -1.0), (False, -math.inf)):
        limits = increase_interval(mean, 0.05, relative=relative, share=False)
        assert (limits.lower, limits.upper) == (low, math.inf)


def test_limits_of_an_increase_are_those_within_stages_where_rates_drift() -> None:
    """The candidate is better in both stages and worse in total: its requests come where errors are frequent."""
    early = stage(arm(20_000, 200), arm(1000, 5), weight=500)
    found = compare(metrics.ERROR_RATE, evidence_of(arm(10_000, 2000), arm(10_000, 1600), past=[early]), 1000, 0.05)
    values = found.values
    assert values.candidate is not None
    assert values.control is not None
    assert values.candidate > values.control
    for relative in (False, True):
        limits = increase_interval(found, 0.05, relative=relative, share=True)
        assert limits.lower < limits.upper < 0


def test_limits_agree_with_the_e_value_about_no_difference_though_that_has_a_test_of_its_own() -> None:
    """Of 90% errors the ratio's test sees little, and the bets on a difference would leave out 0."""
    found = compare(metrics.ERROR_RATE, evidence_of(arm(2000, 1800), arm(2000, 1900)), 1000, 0.05)
    assert found.increase(Side.GREATER, 0.0, relative=False)[0] < WANTED
    assert found.increase(Side.GREATER, 1e-4, relative=False)[0] > WANTED
    limits = increase_interval(found, 0.05, relative=False, share=True)
    assert limits.lower < 0 < limits.upper
    assert limits.lower > -1e-9


def test_a_verdict_and_its_limits_agree() -> None:
    agreed = set()
    for n in range(60, 200, 20):
        found = compare(metrics.ERROR_RATE, evidence_of(arm(n), arm(n)), 1000, 0.05)
        healthy = bool(found.level(Side.LESS, 0.05)[0] >= WANTED)
        assert (level_interval(found, 0.05, share=True).upper <= 0.05) == healthy
        agreed.add(healthy)
    assert agreed == {False, True}
