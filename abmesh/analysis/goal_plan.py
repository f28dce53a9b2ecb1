"""How likely a goal is to be decided by its planned requests, and how many it takes. Pure; for ``abmesh plan``.

The goal's own test is simulated (:mod:`abmesh.analysis.rules`), on requests that are worth as much as those of the
assumed users. Users come back, so the design effect grows with the requests: ``phi = 1 + icc N sum_u a_u^2``, with N
requests of everybody, of which user u sends the share ``a_u``, and ``icc`` the part of a request's variance that lies
between users. Each request more is then worth less, and a small crowd may never be enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np

from abmesh.analysis.layout import percent
from abmesh.analysis.rollout_plan import shown
from abmesh.analysis.rules import Difference, GoalRule
from abmesh.analysis.scenarios import Effect, value_of
from abmesh.analysis.sizing import RUNS, Size, power_at, size_for
from abmesh.analysis.truth import Truth
from abmesh.experiment import metrics
from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import format_percent
from abmesh.inference.fixed import anytime_sample_size, sequential_sample_size
from controller.wording.values import show_value

_CROWDS: Final = 21


@dataclass(frozen=True, slots=True)
class GoalPlan:
    """What a goal needs.

    Attributes:
        metric: the goal's.
        control, candidate: true values.
        weight: the candidate's, in basis points; the control has the rest.
        wanted: the power that the size is for, 0..1.
        planned: the goal's ``planned_requests``; None without.
        at_planned: the power by then; None without, or where looks are planned.
        size: the candidate's requests for the wanted power; None where these users can never be enough.
        design_effect: of the metric at that size.
        seconds: how long that takes.
    """

    metric: Metric
    control: float
    candidate: float
    weight: int
    wanted: float
    planned: int | None
    at_planned: Size | None
    size: int | None
    design_effect: float
    seconds: float | None


def plan_goal(
    experiment: Experiment, truth: Truth, effect: Effect, wanted: float = 0.8, *, runs: int = RUNS, seed: int = 1
) -> GoalPlan | None:
    """What the rollout's goal needs to find an improvement.

    Args:
        experiment: with a goal.
        truth: without a difference.
        effect: the improvement.
        wanted: power, 0..1.
        runs: simulated experiments.
        seed: of the random numbers.

    Returns:
        None where nothing is known about how the metric varies.
    """
    rollout = experiment.rollout
    assert rollout is not None
    assert rollout.goal is not None
    goal = rollout.goal
    metric, control = goal.measured, value_of(experiment, goal.measured, truth, candidate=False)
    varies = variation(metric, truth)
    if control is None or varies is None:
        return None
    sd, icc = varies
    candidate, weight = effect.of(control), _weight(experiment)
    share = weight / BUCKETS
    ratio = share / (1 - share)
    growth = icc * _concentration(truth) / share  # of the design effect, with a request of the candidate

    def rule(design_effect: float) -> GoalRule:
        difference = Difference(control, candidate, sd, design_effect)
        tuned_for = (rollout.tuned_for, rollout.analysis.alpha) if goal.planned_requests is None else None
        return GoalRule(difference, rollout.alpha_better, experiment.slices, tuned_for)

    scale = _scale(control, candidate, sd)
    at_planned = None
    if goal.design == "group_sequential":
        asked = (*scale, 2 * rollout.alpha_better, wanted, goal.looks, ratio)
        independent: float | None = sequential_sample_size(*asked) * ratio
    else:
        start = anytime_sample_size(*scale, 2 * rollout.alpha_better, wanted, ratio)
        found = size_for(rule(1.0), start, ratio, wanted, runs=runs, seed=seed)
        independent = None if found is None else found.control * ratio
        if goal.planned_requests is not None:
            repeats = rule(1 + growth * goal.planned_requests)
            at_planned = power_at(repeats, goal.planned_requests / ratio, ratio, runs=runs, seed=seed)
    size = None
    if independent is not None and independent * growth < 1:
        size = math.ceil(independent / (1 - independent * growth))
    return GoalPlan(
        metric=metric,
        control=control,
        candidate=candidate,
        weight=weight,
        wanted=wanted,
        planned=goal.planned_requests,
        at_planned=at_planned,
        size=size,
        design_effect=1 + growth * (size or 0),
        seconds=None if size is None else size / share / truth.requests_per_second,
    )


def variation(metric: Metric, truth: Truth) -> tuple[float | None, float] | None:
    """A request's standard deviation, None for a share, and the part of its variance that lies between users."""
    if metric == metrics.ERROR_RATE:
        spread = math.expm1(truth.error_spread**2) if truth.error_cv2 is None else truth.error_cv2
        return None, truth.error_rate * spread / (1 - truth.error_rate)
    if metric == metrics.LATENCY_MEAN:
        whole = math.expm1(truth.latency_spread**2)
        mean = truth.latency_ms * math.exp(truth.latency_spread**2 / 2)
        return mean * math.sqrt(whole), math.expm1(truth.latency_spread**2 * truth.latency_between) / whole
    item = truth.quantity(metric.name)
    if item is None:
        return None
    if item.is_rate:
        return None, item.value * item.between**2 / (1 - item.value)
    whole = (1 + item.between**2) * (1 + item.within**2) - 1
    return item.value * math.sqrt(whole), item.between**2 / whole


def _scale(control: float, candidate: float, sd: float | None) -> tuple[float, float, float]:
    if sd is not None:
        return sd**2, sd**2, candidate - control
    return control * (1 - control), candidate * (1 - candidate), candidate - control


def _weight(experiment: Experiment) -> int:
    """The step at which both variants have most to compare: the nearest to half of the users."""
    assert experiment.rollout is not None
    return min((step for step in experiment.rollout.steps if step < BUCKETS), key=lambda step: abs(step - BUCKETS / 2))


def _concentration(truth: Truth) -> float:
    """The sum of the squares of the users' shares of all requests, in a typical crowd."""
    found = []
    for seed in range(_CROWDS):
        activity = np.random.default_rng(seed).pareto(truth.activity, truth.users) + 1
        if truth.busiest is not None:
            activity = np.minimum(activity, truth.busiest)
        found.append(float(np.square(activity / activity.sum()).sum()))
    return float(np.median(found))


def as_lines(found: GoalPlan) -> list[str]:
    """The goal's part of a plan, for people."""
    value, target = (show_value(found.metric, value) for value in (found.control, found.candidate))
    lines = [f"goal {found.metric.name} {value} to {target}, at {format_percent(found.weight)} of the users:"]
    if found.at_planned is not None:
        power = found.at_planned
        lines.append(
            f"  power {power.power:.0%} +- {power.error:.1%} by planned_requests, {found.planned:,} of the candidate"
        )
    wanted = percent(found.wanted)
    if found.size is None or found.seconds is None:
        lines.append(
            f"  no size has a power of {wanted}: the same users return, and each request says less than before."
        )
        lines.append("  A larger effect, more users, or a metric per user would help.")
    else:
        lines.append(
            f"  a power of {wanted} takes {found.size:,} requests of the candidate, "
            f"{shown(timedelta(seconds=found.seconds))} (design effect {found.design_effect:.3g})"
        )
    return lines


def as_json(found: GoalPlan) -> dict[str, Any]:
    """The goal's part of a plan, for programs."""
    power = found.at_planned
    return {
        "metric": found.metric.name,
        "control": found.control,
        "candidate": found.candidate,
        "candidate_share": found.weight / BUCKETS,
        "planned_requests": found.planned,
        "power_at_planned": None if power is None else power.power,
        "power_at_planned_error": None if power is None else power.error,
        "power": found.wanted,
        "requests": found.size,
        "design_effect": found.design_effect,
        "seconds": found.seconds,
    }
