"""Rare events under constant looks: our rules keep their promise where the naive ones break it."""

from __future__ import annotations

from bench.simulations import counts
from bench.simulations.outcome import Outcome


def naive(outcomes: list[Outcome]) -> float:
    """The naive rule's rate of false alarms."""
    return next(o.rate for o in outcomes if o.rule.startswith("naive") and o.truth != "errors doubled")


def test_rare_errors_on_a_small_canary() -> None:
    found = counts.rare_errors(300, 11)
    assert [o for o in found if not o.kept] == []
    assert naive(found) > 0.3


def test_an_absolute_difference_against_a_margin() -> None:
    found = counts.differences(100, 12)
    assert [o for o in found if not o.kept] == []
    assert max(o.rate for o in found if o.rule.startswith("naive") and o.truth == "at the margin") > 0.5


def test_an_absolute_difference_on_a_ramp_with_drift() -> None:
    found = counts.ramp(100, 13)
    assert [o for o in found if not o.kept] == []
    assert naive(found) > 0.5


def test_one_share_against_a_limit() -> None:
    found = counts.limits(500, 14)
    assert [o for o in found if not o.kept] == []
    assert naive(found) > 0.2


def test_a_seed_gives_the_same_runs_again() -> None:
    assert counts.limits(7, 1) == counts.limits(7, 1)
