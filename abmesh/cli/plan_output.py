"""A rollout's plan as text and as JSON. Called by :mod:`abmesh.cli.plan_rollout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from abmesh.analysis import goal_plan, rollout_plan
from abmesh.analysis.goal_plan import GoalPlan
from abmesh.analysis.layout import count
from abmesh.analysis.rollout_plan import Outlook
from abmesh.analysis.scenarios import value_of
from abmesh.analysis.truth import Truth
from abmesh.cli.plays import Simulation
from abmesh.experiment.model import Experiment
from abmesh.experiment.quantities import format_duration
from controller.wording.values import show_steps, show_value


def as_text(
    given: Simulation, truth: Truth, outlooks: Sequence[Outlook], goal: GoalPlan | None, left_out: Sequence[str]
) -> str:
    """For people."""
    subject = given.experiment
    rollout = subject.rollout
    assert rollout is not None
    stage = rollout.stage
    lines = [
        f"{subject.name}: {rollout.mode} with steps {show_steps(rollout.steps)}, each at least "
        f"{format_duration(stage.min_duration)} and {count(stage.min_requests)} requests of the candidate, "
        f"settle time {format_duration(given.settle)}",
        f"assumed: {truth.requests_per_second:g} requests/s from {count(truth.users)} users; the control's "
        f"{', '.join(_values(subject, truth))}",
        f"simulated: {count(outlooks[0].runs)} rollouts of each candidate, with the controller's own decisions, for at "
        f"most {format_duration(given.longest)}; +- is one Monte-Carlo standard error",
        "",
        *rollout_plan.as_lines(outlooks),
        "",
        "after: the time from the start by which a share of the runs that ended so had ended",
    ]
    if goal is not None:
        lines += ["", *goal_plan.as_lines(goal)]
    lines += [f"left out: {text}" for text in left_out]
    if not outlooks[0].scenario.truth.error_rate:
        lines.append("note: without errors of the control, no relative limit on errors can be planned")
    return "\n".join(lines)


def _values(subject: Experiment, truth: Truth) -> list[str]:
    """The control's values of everything that decides, and of what was given."""
    rollout = subject.rollout
    assert rollout is not None
    measured = [rail.measured for rail in rollout.guardrails]
    measured += [] if rollout.goal is None else [rollout.goal.measured]
    measured += [subject.metrics[item.metric] for item in truth.quantities if item.metric in subject.metrics]
    found = []
    for metric in dict.fromkeys(measured):
        value = value_of(subject, metric, truth, candidate=False)
        found += [] if value is None else [f"{metric.name} {show_value(metric, value)}"]
    return found


def as_json(
    given: Simulation, truth: Truth, outlooks: Sequence[Outlook], goal: GoalPlan | None, left_out: Sequence[str]
) -> dict[str, Any]:
    """For programs: shares in 0..1, times in seconds."""
    return {
        "experiment": given.experiment.name,
        "seed": given.seed,
        "assumed": asdict(truth),
        "longest_seconds": given.longest.total_seconds(),
        "settle_seconds": given.settle.total_seconds(),
        "candidates": [rollout_plan.as_json(item) for item in outlooks],
        "goal": None if goal is None else goal_plan.as_json(goal),
        "left_out": list(left_out),
    }
