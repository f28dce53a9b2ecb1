"""Sizes by simulation: those of a test whose answer is known, and of the very tests that report and decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from abmesh.analysis.rules import Difference, GoalRule, ReportRule
from abmesh.analysis.sizing import LOOKS, Rule, Size, power_at, size_for
from abmesh.inference.fixed import anytime_sample_size
from abmesh.inference.numbers import Floats
from tests.examples import others_in_soak


@dataclass(frozen=True)
class Uniform:
    """Finds its difference after a number of the candidate's requests between 0 and 1,000, each as likely."""

    slower: float = 0.0  # per request that it is tuned for too few
    threshold: float = 1.0

    def paths(self, random: np.random.Generator, control: Floats, candidate: Floats, size: float, runs: int) -> Floats:
        moments = random.uniform(0, 1000, (runs, 1)) + self.slower * max(900 - size, 0)
        return np.where(candidate >= moments, 2.0, 0.0)


@pytest.mark.parametrize("start", [3.0, 800.0, 50_000.0])
@pytest.mark.parametrize(("ratio", "wanted"), [(1.0, 800.0), (0.1, 8000.0)])
def test_a_size_is_where_that_share_of_the_experiments_have_found_the_difference(
    start: float, ratio: float, wanted: float
) -> None:
    found = size_for(Uniform(), start, ratio, 0.8)
    assert found is not None
    assert found.control == pytest.approx(wanted, rel=0.03)
    assert found.power == pytest.approx(0.8, abs=0.03)
    assert found.at_end == found.power  # what it has found it still finds


def test_a_test_that_is_tuned_is_simulated_with_the_size_that_was_found() -> None:
    found = size_for(Uniform(slower=0.5), 100, 1.0, 0.8)
    assert found is not None
    assert found.control == pytest.approx(2 / 3 * (800 + 450), rel=0.05)  # n = 800 + (900 - n) / 2


def test_more_requests_than_can_be_counted_are_no_size() -> None:
    assert size_for(Uniform(threshold=math.inf), 1000, 1.0, 0.8, runs=100) is None


def test_the_same_seed_gives_the_same_size_and_another_another() -> None:
    one, same, other = (size_for(Uniform(), 500, 1.0, 0.8, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    "rule",
    [
        ReportRule(Difference(0.02, 0.03), 0.05),
        ReportRule(Difference(0.5, 0.45), 0.05, sides=1),
        ReportRule(Difference(220, 240, 90), 0.05),
        GoalRule(Difference(0.02, 0.03), 0.025, 50),
        GoalRule(Difference(220, 200, 90), 0.025, 50),
    ],
)
def test_equal_variants_are_found_to_differ_no_more_often_than_alpha_allows(rule: ReportRule | GoalRule) -> None:
    """And the difference that is planned for is found, at every ratio of the variants."""
    truth = rule.truth
    equal = Difference(truth.control, truth.control, truth.sd)
    equal_rule = ReportRule(equal, rule.alpha, 2) if isinstance(rule, ReportRule) else GoalRule(equal, 0.025, 50)
    assert power_at(equal_rule, 5_000, 0.5, runs=300).power <= 0.025 + 3 * math.sqrt(0.025 / 300)
    assert power_at(rule, 100_000, 0.2, runs=100).power == 1.0


def test_users_who_repeat_take_as_many_more_requests_as_the_design_effect_says() -> None:
    once, often = (
        size_for(GoalRule(Difference(0.05, 0.08, None, effect), 0.025, 50), 2000 * effect, 1.0, 0.8, runs=1000)
        for effect in (1.0, 6.0)
    )
    assert once is not None
    assert often is not None
    # A design effect is never taken to be below 1, which costs independent requests a little.
    assert 5.3 < often.control / once.control < 6.3


def test_the_error_of_a_power_is_that_of_its_runs() -> None:
    assert Size(100, 0.8, 0.7, 1600).error == pytest.approx(0.01)


ANALYZED = [Difference(0.02, 0.024), Difference(0.5, 0.52), Difference(0.8, 0.82)]


def _named(truth: Difference) -> str:
    return f"{truth.control:g} to {truth.candidate:g}"


@pytest.mark.simulation
@pytest.mark.parametrize(
    "truth", others_in_soak(ANALYZED, ANALYZED[1:2]), ids=lambda truth: f"{truth.control:g} to {truth.candidate:g}"
)
def test_a_report_has_the_planned_power_at_the_planned_size(truth: Difference) -> None:
    """The size of a normal approximation gave .73, .48 and .52."""
    _holds(ReportRule(truth, 0.05), truth)


GOALS = [
    *ANALYZED,
    Difference(0.0005, 0.001),
    Difference(0.02, 0.024, None, 4.0),
    Difference(220, 230, 90),
]


@pytest.mark.simulation
@pytest.mark.parametrize(
    "truth", others_in_soak(GOALS, GOALS[1:2]), ids=lambda truth: f"{truth.control:g} to {truth.candidate:g}"
)
def test_a_goal_has_the_planned_power_at_the_planned_size(truth: Difference) -> None:
    """The test of rare events gave .16 for 50 to 52% and 0 for 80 to 82%."""
    _holds(GoalRule(truth, 0.025, 50), truth)


def _holds(rule: Rule, truth: Difference) -> None:
    variance = truth.control * (1 - truth.control) if truth.sd is None else truth.sd**2
    start = anytime_sample_size(variance, variance, truth.candidate - truth.control, 0.05, 0.8) * truth.design_effect
    found = size_for(rule, start, 1.0, 0.8)
    assert found is not None
    again = power_at(rule, found.control, 1.0, runs=4_000, seed=2026)
    assert again.power == pytest.approx(0.8, abs=0.03)
    assert again.at_end < again.power < 1
    assert LOOKS == 100
