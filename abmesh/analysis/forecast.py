"""What many simulated rollouts show together: how often the plan errs, and how long it takes. Pure.

Made from :func:`abmesh.analysis.simulation.play`; shown by ``abmesh simulate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from abmesh.analysis.simulation import Ending, Played
from abmesh.analysis.truth import Truth, true_value
from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import ERROR_RATE
from abmesh.experiment.rollout import Rollout
from controller.decision.guardrails import keeps, limit_of
from controller.records import Cause


@dataclass(frozen=True, slots=True)
class Forecast:
    """Many plays of one truth.

    Attributes:
        runs: how many.
        endings: how many ended in which way.
        causes: how many ended for which cause.
        broken: metrics whose guardrails the candidate truly breaks, including the emergency stop's if its errors exceed
            both that and the control's, and an experiment's goal if it is truly worse on it; not those of guardrails
            that only watch. Empty if it does no harm.
        worse: metrics on which it is truly worse than the control but within its limit, where ``harm: any`` may roll it
            back but need not.
        after: median and 90th percentile of the time to the end, by the way it ended.
        weights: the candidate's weight in basis points at a rollback, and how often.
        requests: median of the candidate's requests.
    """

    runs: int
    endings: dict[Ending, int]
    causes: dict[Cause, int]
    broken: tuple[str, ...]
    after: dict[Ending, tuple[timedelta, timedelta]]
    weights: dict[int, int]
    requests: int
    worse: tuple[str, ...] = ()

    def share(self, ending: Ending) -> tuple[float, float]:
        """Share of the runs that ended this way, and its Monte Carlo standard error."""
        rate = self.endings.get(ending, 0) / self.runs
        return rate, math.sqrt(rate * (1 - rate) / self.runs)

    @property
    def false_rollbacks(self) -> float | None:
        """Share of the runs that were rolled back, or paused, without a reason to; None if there is one."""
        if self.broken or self.worse:
            return None
        return (self.endings.get(Ending.ROLLED_BACK, 0) + self.endings.get(Ending.PAUSED, 0)) / self.runs

    @property
    def missed_harm(self) -> float | None:
        """Share of the runs that were promoted or won even though the candidate does harm; None if it does none."""
        if not self.broken:
            return None
        return (self.endings.get(Ending.PROMOTED, 0) + self.causes.get(Cause.WINNER, 0)) / self.runs


def forecast(plays: Sequence[Played], rollout: Rollout, truth: Truth) -> Forecast:
    """Sum up at least one play.

    Raises:
        ValueError: the rollout has a guardrail, or an experiment's goal, on a metric that is not simulated.
    """
    by_ending: dict[Ending, list[timedelta]] = {}
    weights: dict[int, int] = {}
    causes: dict[Cause, int] = {}
    for played in plays:
        by_ending.setdefault(played.ending, []).append(played.after)
        causes[played.cause] = causes.get(played.cause, 0) + 1
        if played.ending is Ending.ROLLED_BACK:
            weights[played.weight] = weights.get(played.weight, 0) + 1
    return Forecast(
        runs=len(plays),
        endings={ending: len(times) for ending, times in by_ending.items()},
        causes=dict(sorted(causes.items())),
        broken=_broken(rollout, truth),
        after={ending: (_at(times, 0.5), _at(times, 0.9)) for ending, times in by_ending.items()},
        weights=dict(sorted(weights.items())),
        requests=sorted(played.requests for played in plays)[len(plays) // 2],
        worse=_worse(rollout, truth),
    )


def breaks(guardrail: Guardrail, truth: Truth) -> bool:
    """Whether a candidate of this truth really exceeds a guardrail's limit."""
    metric = guardrail.measured
    candidate, control = true_value(metric, truth, candidate=True), true_value(metric, truth, candidate=False)
    limit = limit_of(guardrail, control)
    return not keeps(guardrail, candidate, limit) and abs(candidate - limit) > 1e-12 * abs(limit)


def _broken(rollout: Rollout, truth: Truth) -> tuple[str, ...]:
    found = [rail.metric for rail in rollout.guardrails if not rail.dry_run and breaks(rail, truth)]
    candidate, control = (true_value(ERROR_RATE, truth, candidate=which) for which in (True, False))
    if candidate > max(rollout.analysis.emergency_stop, control):
        found.append(ERROR_RATE.name)
    goal = rollout.goal
    if rollout.mode == "experiment" and goal is not None:
        candidate, control = (true_value(goal.measured, truth, candidate=which) for which in (True, False))
        if candidate < control if goal.more_is_better else candidate > control:
            found.append(goal.metric)
    return tuple(dict.fromkeys(found))


def _worse(rollout: Rollout, truth: Truth) -> tuple[str, ...]:
    found = [
        rail.metric
        for rail in rollout.guardrails
        if rail.harm == "any"
        and not rail.dry_run
        and not breaks(rail, truth)
        and true_value(rail.measured, truth, candidate=True) > true_value(rail.measured, truth, candidate=False)
    ]
    return tuple(dict.fromkeys(found))


def _at(times: Sequence[timedelta], share: float) -> timedelta:
    return sorted(times)[min(len(times) - 1, math.floor(share * len(times)))]
