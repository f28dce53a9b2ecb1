"""The decision, ``explain`` and ``analyze`` agree on any evidence: same estimates, same e-values, same limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.analysis.explanation import explain
from abmesh.analysis.records import Finding, MetricReport
from abmesh.analysis.rollout_evidence import RolloutQuestion
from abmesh.analysis.rollout_report import report_of_strata
from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.inference.numbers import Interval, Side
from controller.decision.comparison import Comparison
from controller.decision.comparisons import compare
from controller.decision.decide import Inputs
from controller.decision.goals import judge_goal
from controller.decision.guardrails import judge
from controller.decision.history import History, PastStage
from controller.decision.intervals import increase_interval, level_interval
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import GoalJudgement, Judgement, Verdict
from controller.decision.views import Views
from controller.evidence.coverage import Coverage
from controller.evidence.strata import Stratum
from controller.records import ExperimentState, Phase, Stage
from tests.abmesh.analysis.worlds import CANDIDATE, CONTROL, SLICES, WORLDS, World, strata
from tests.controller.support import START, experiment
from tests.examples import examples

ALPHA = 0.05
SHARES = ("error_rate", "refusal_rate")
MEANS = ("click_rate", "output_tokens_mean", "tokens_per_second")
QUANTILES = ("latency_p50", "latency_p95")
KINDS = (*SHARES, *MEANS, *QUANTILES)
MORE_IS_BETTER = ("tokens_per_second", "click_rate")


def evidence(parts: Sequence[Stratum]) -> RolloutEvidence:
    return RolloutEvidence(CANDIDATE, CONTROL, SLICES, parts)


def planned(metric: str, **guardrail: Any) -> Experiment:
    """An experiment with one guardrail, and its metric for a goal."""
    goal: dict[str, Any] = {"metric": metric}
    if metric in ("refusal_rate", "output_tokens_mean"):
        goal["increase"] = False  # The name alone does not say which way is better.
    limits = [{"metric": metric, **guardrail}] if guardrail else []
    return experiment(rollout={"guardrails": limits, "goal": goal})


def compared(metric: str, parts: Sequence[Stratum]) -> tuple[Experiment, Metric, Comparison]:
    plan = planned(metric)
    assert plan.rollout is not None
    measured = plan.metrics[metric]
    return plan, measured, compare(measured, evidence(parts), plan.rollout.tuned_for, ALPHA)


def reported(plan: Experiment, metric: str, parts: Sequence[Stratum]) -> MetricReport:
    (found,) = report_of_strata(parts, RolloutQuestion.of(plan), (plan.metrics[metric],)).metrics
    return found


MARGINS = st.floats(-0.6, 0.6)


@pytest.mark.parametrize("metric", SHARES)
@given(WORLDS, MARGINS, st.booleans())
@examples(120)
def test_limits_of_a_share_leave_out_what_the_e_value_rejects(
    metric: str, world: World, by: float, relative: bool
) -> None:
    assert_limits_agree(metric, world, by, relative=relative)


@pytest.mark.parametrize("metric", MEANS)
@given(WORLDS, MARGINS, st.booleans())
@examples(50)
def test_limits_of_a_mean_leave_out_what_the_e_value_rejects(
    metric: str, world: World, by: float, relative: bool
) -> None:
    assert_limits_agree(metric, world, by, relative=relative)


@pytest.mark.parametrize("metric", QUANTILES)
@given(WORLDS, MARGINS, st.booleans())
@examples(20)
def test_limits_of_a_quantile_leave_out_what_the_e_value_rejects(
    metric: str, world: World, by: float, relative: bool
) -> None:
    assert_limits_agree(metric, world, by, relative=relative)


def assert_limits_agree(metric: str, world: World, by: float, *, relative: bool) -> None:
    """At any margin, for the interval that ``explain`` shows beside a guardrail's verdict."""
    _, measured, found = compared(metric, strata(world))
    standard = found.standardised
    if standard is None:
        return
    margin = by if relative else by * max(standard)
    limits = increase_interval(found, ALPHA, relative=relative, share=measured.share, judged=margin)
    above, below = (float(found.increase(side, margin, relative=relative)[0]) for side in (Side.GREATER, Side.LESS))
    assert_agrees(limits, margin, above, below)
    zero = [float(found.increase(side, 0.0, relative=relative)[0]) for side in (Side.GREATER, Side.LESS)]
    limits = increase_interval(found, ALPHA, relative=relative, share=measured.share)
    assert_agrees(limits, 0.0, *zero)
    value = found.values.candidate
    assert value is not None
    at = value * (1 + by)
    if at <= 0 or (measured.share and at >= 1) or at == value:
        return  # At the end of the scale a limit stands for none, and an estimate is never left out.
    limits = level_interval(found, ALPHA, share=measured.share, judged=at)
    above, below = (float(found.level(side, at)[0]) for side in (Side.GREATER, Side.LESS))
    # An interval never leaves out its estimate, even if that is where many values are alike.
    assert_agrees(limits, at, above if at < value else 0.0, below if at > value else 0.0)


def assert_agrees(limits: Interval, margin: float, above: float, below: float) -> None:
    wanted = -math.log(ALPHA)
    if min(above, below) >= wanted:
        return  # Stages that contradict each other reject every margin between the limits.
    assert (margin <= limits.lower) == (above >= wanted), (limits, margin, above)
    assert (margin >= limits.upper) == (below >= wanted), (limits, margin, below)


@pytest.mark.parametrize("metric", KINDS)
@given(WORLDS)
@examples(15)
def test_a_report_says_what_the_goals_e_values_say(metric: str, world: World) -> None:
    parts = strata(world)
    plan, _, _ = compared(metric, parts)
    goal = decided(plan, parts)
    report = reported(plan, metric, parts)
    finding = report.comparisons[0].findings[0]
    rows = {row.variant: row.value.value for row in report.variants}
    assert (rows[CANDIDATE], rows[CONTROL]) == (goal.value, goal.control) or goal.value is None or goal.control is None
    if goal.value is None or goal.control is None:
        assert finding.p == 1.0
        return
    assert finding.p == pytest.approx(min(1.0, 2 * math.exp(-max(goal.log_e_better, goal.log_e_worse))), rel=1e-12)
    assert finding.significant == (finding.p <= ALPHA)
    more = plan.rollout is not None and plan.rollout.goal is not None and plan.rollout.goal.more_is_better
    if finding.result != "undecided":
        better = (finding.result == "higher") == more
        assert better == (goal.log_e_better > goal.log_e_worse)
    for estimate in (finding.difference, finding.lift):
        if estimate is not None and estimate.value is not None:
            assert (estimate.interval.lower < 0 < estimate.interval.upper) == (not finding.significant)


def decided(plan: Experiment, parts: Sequence[Stratum]) -> GoalJudgement:
    assert plan.rollout is not None
    goal, _ = judge_goal(plan.rollout, evidence(parts), ())
    return goal


@pytest.mark.parametrize("metric", KINDS)
@given(WORLDS, st.sampled_from([0.02, 0.1, 0.5]))
@examples(15)
def test_a_verdict_is_what_its_limits_and_the_report_say(metric: str, world: World, margin: float) -> None:
    """A guardrail on the relative increase; a quarter of what harms is on all users and all stages."""
    parts = strata(world)
    kind = "max_decrease" if metric in MORE_IS_BETTER else "max_increase"
    plan = planned(metric, **{kind: f"{margin:.0%}", "relative": True})
    assert plan.rollout is not None
    rollout = plan.rollout
    judgement = judge(rollout.guardrails[0], rollout, evidence(parts))
    if judgement.verdict is Verdict.ERROR:
        return
    views = Views.of(
        lambda view: compare(plan.metrics[metric], view, rollout.tuned_for, ALPHA),
        evidence(parts),
        plan.metrics[metric],
    )
    sides = (Side.LESS, Side.GREATER) if kind == "max_increase" else (Side.GREATER, Side.LESS)
    limit = margin if kind == "max_increase" else -margin
    healthy, harm = (float(views.kept.increase(side, limit, relative=True)[0]) for side in sides)
    assert judgement.log_e_healthy == healthy
    halves = [float(view.increase(sides[1], limit, relative=True)[0]) for view in (views.whole, views.others)]
    assert judgement.log_e_harm == pytest.approx(np.logaddexp(halves[0], halves[1]) - 2 * math.log(2))
    lift = lift_of(plan, metric, parts)
    if lift is not None and min(healthy, harm) < math.log(2 / ALPHA):
        # Two-sided, each limit at half of alpha.
        beyond = limit <= lift.lower if kind == "max_increase" else limit >= lift.upper
        if metric not in QUANTILES:  # whose lift is only roughly that of one margin
            assert beyond == (harm >= math.log(2 / ALPHA))


def lift_of(plan: Experiment, metric: str, parts: Sequence[Stratum]) -> Interval | None:
    finding: Finding = reported(plan, metric, parts).comparisons[0].findings[0]
    return None if finding.lift is None else finding.lift.interval


@pytest.mark.parametrize("metric", KINDS)
@given(WORLDS, st.booleans())
@examples(12)
def test_explain_shows_the_limits_of_the_comparison_that_decided(metric: str, world: World, compares: bool) -> None:
    parts = strata(world)
    change = {"max_decrease" if metric in MORE_IS_BETTER else "max_increase": "10%", "relative": True}
    plan = planned(metric, **(change if compares else level(metric)))
    explanation = explain(inputs(plan, parts))
    (shown,) = explanation.guardrails
    judgement: Judgement = shown.judgement
    if judgement.verdict is Verdict.ERROR:
        return
    rows = {row.variant: row.value.value for row in reported(plan, metric, parts).variants}
    if judgement.verdict is not Verdict.HARMFUL:  # whose numbers are those that say most for harm
        assert judgement.value == pytest.approx(rows[CANDIDATE])
    limit = (0.1 if shown.guardrail.upper else -0.1) if compares else judgement.limit
    assert limit is not None
    healthy = judgement.log_e_healthy >= -math.log(ALPHA)
    below = shown.interval.upper <= limit if shown.guardrail.upper else shown.interval.lower >= limit
    assert below == healthy


def level(metric: str) -> dict[str, Any]:
    if metric == "tokens_per_second":
        return {"min": 40}
    if metric == "click_rate":
        return {"min": "6%"}
    return {"max": "6%" if metric.endswith("_rate") else "120ms" if metric.startswith("latency") else 101}


def inputs(plan: Experiment, parts: Sequence[Stratum]) -> Inputs:
    """What a decision would be made of, were the last stratum the current stage."""
    *past, present = parts
    state = ExperimentState(
        phase=Phase.PROGRESSING,
        candidate=CANDIDATE,
        control=CONTROL,
        steps=(500, 3000, 10_000),
        weights=dict(present.weights),
        stage=Stage(id="s9", weight=present.weights[CANDIDATE], started_at=START),
    )
    history = History(
        past=tuple(
            PastStage(f"s{index}", dict(each.weights), each.variants, _edges(each)) for index, each in enumerate(past)
        ),
        edges=_edges(present),
    )
    at = START + timedelta(minutes=5)
    return Inputs(plan, state, history, Coverage(1), at, at, began=START, evidence=present.variants)


def _edges(stratum: Stratum) -> dict[str, tuple[float, ...]]:
    return {name: tuple(edges) for name, edges in stratum.edges.items()}
