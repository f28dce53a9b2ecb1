"""What a hold foretells, against what then happens, in worlds of returning users played by the real decision path."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import pytest

from abmesh.analysis.simulation import play
from abmesh.analysis.truth import Truth
from controller.decision import guardrails
from controller.decision.decide import Decided, Inputs
from controller.decision.verdicts import Judgement, Trend, Verdict
from tests.controller.support import experiment

pytestmark = [pytest.mark.simulation, pytest.mark.soak]

FEW, MANY = 2_000, 50_000
HEAVY_TAILED = {FEW: 2.0, MANY: 1.2}
"""Shape of the users' activities."""


@dataclass(frozen=True)
class Look:
    """A judgement, and how long the stage had lasted, in seconds."""

    seconds: float
    judgement: Judgement

    @property
    def ends(self) -> float | None:
        """When the stage is foretold to end, in seconds since it began."""
        found = self.judgement
        return None if found.needed is None else self.seconds + found.needed * found.elapsed / found.latest_n


def _looks(users: int, weight: int, limit: str, rate: float, seed: int, hours: float, tick: float) -> list[Look]:
    """Every look at one step of a rollout whose candidate is like its control, until it passes or the time is over."""
    found: list[Look] = []

    def watch(inputs: Inputs, decided: Decided) -> None:
        assert inputs.began is not None
        seconds = (inputs.now - inputs.began).total_seconds()
        found.extend(Look(seconds, item) for item in decided.situation.judgements if item.guardrail is not None)

    plan = {
        "steps": [weight],
        "stage": {"min_duration": "30s", "min_requests": 50, "max_duration": "2d"},
        "guardrails": [{"metric": "error_rate", "max": limit}],
    }
    truth = Truth(users=users, requests_per_second=10, activity=HEAVY_TAILED[users], error_rate=rate, error_spread=1.05)
    subject = experiment(weight=weight, rollout=plan)
    play(subject, truth, tick=timedelta(seconds=tick), longest=timedelta(hours=hours), seed=seed, watch=watch)
    return found


@pytest.mark.parametrize(("users", "weight", "rate", "tick"), [(FEW, 20, 0.02, 30), (MANY, 5, 0.015, 60)])
def test_half_way_most_forecasts_are_within_a_factor_of_two_of_the_truth(
    users: int, weight: int, rate: float, tick: float
) -> None:
    plays = [_looks(users, weight, "3%", rate, seed, 4, tick) for seed in range(30)]
    decided = [looks for looks in plays if looks[-1].judgement.verdict is Verdict.HEALTHY and len(looks) >= 10]
    assert len(decided) >= 12
    ratios = [(looks[len(looks) // 2].ends or float("inf")) / looks[-1].seconds for looks in decided]
    near = sum(0.5 <= ratio <= 2 for ratio in ratios)
    assert near >= 0.5 * len(decided), sorted(ratios)


@cache
def _undecided(users: int, *, constant: bool) -> list[list[Look]]:
    """Plays that six hours do not decide, with forecasts as they are or as if no user returned."""
    with pytest.MonkeyPatch.context() as patch:
        if constant:
            patch.setattr(guardrails, "returning_users", lambda *_: 0.0)
        plays = [_looks(users, 10, "3.5%", 0.03, seed, 6, 120) for seed in range(12)]
    return [looks for looks in plays if looks[-1].judgement.verdict is Verdict.INCONCLUSIVE]


def _moved(looks: list[Look], *, early: float, late: float) -> float | None:
    """By what factor the foretold end moves from one hour to another; None where no end is foretold later."""
    first, last = (min(looks, key=lambda look: abs(look.seconds - hours * 3600)).ends for hours in (early, late))
    return None if last is None else last / (first or last)


@pytest.mark.parametrize("users", [FEW, MANY])
def test_a_forecast_does_not_recede_where_the_same_users_return(users: int) -> None:
    before = [_moved(looks, early=2, late=5.9) for looks in _undecided(users, constant=True)]
    after = [_moved(looks, early=2, late=5.9) for looks in _undecided(users, constant=False)]
    assert len(before) == len(after) >= 4
    receding = [moved for moved in before if moved is None or moved > 1.5]
    assert len(receding) >= 0.5 * len(before), "these worlds are those in which forecasts receded"
    assert sum(moved is not None and moved > 1.5 for moved in after) <= 0.2 * len(after), after


@pytest.mark.parametrize(("users", "most_are_stuck"), [(FEW, True), (MANY, False)])
def test_undecided_after_hours_it_says_that_the_same_users_return(users: int, most_are_stuck: bool) -> None:
    """Of a few users nearly all have been seen by then; of many, those who return still leave something to learn."""
    last = [looks[-1].judgement for looks in _undecided(users, constant=False)]
    assert (sum(item.stuck for item in last) >= 0.6 * len(last)) == most_are_stuck
    assert any(item.repeats for item in last)


@pytest.mark.parametrize("users", [FEW, MANY])
def test_a_value_that_does_not_change_is_hardly_ever_said_to_move(users: int) -> None:
    trends = [look.judgement.trend for looks in _undecided(users, constant=False) for look in looks]
    assert sum(trend in (Trend.RISING, Trend.FALLING) for trend in trends) <= 0.02 * len(trends)
