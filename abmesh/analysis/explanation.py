"""Why a decision was made: every guardrail with its numbers, limits and formula. Pure; called by ``abmesh explain``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from abmesh.analysis.formulas import formula_of
from abmesh.analysis.typical_users import ExplainedUser, explained_user
from abmesh.experiment.limits import Goal, Guardrail
from abmesh.experiment.quantities import format_duration, format_share
from abmesh.experiment.rollout import Rollout, Warmup
from abmesh.inference.numbers import Interval
from controller.decision.checks import CheckJudgement
from controller.decision.comparison import MIN_SLICES
from controller.decision.comparisons import compare
from controller.decision.decide import Inputs, decide, evidence_of
from controller.decision.guardrails import plain
from controller.decision.intervals import increase_interval, level_interval
from controller.decision.means import MIN_MEAN
from controller.decision.quantiles import MIN_GROUPS
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import GoalJudgement, Judgement, SampleRatio
from controller.decision.warmup import WarmupResult
from controller.records import ExperimentState
from controller.wording.checks import check_text
from controller.wording.control import breach_text
from controller.wording.reasons import reason
from controller.wording.values import show_guardrail, show_limit, show_value
from controller.wording.verdicts import goal_text, judgement_text, paradox_text, sample_ratio_text, warmup_text


@dataclass(frozen=True, slots=True)
class ExplainedGuardrail:
    """One guardrail of a decision.

    Attributes:
        guardrail: as the document has it.
        name: what it is called: ``error_rate max 5%``.
        judgement: what was found.
        text: the same as a sentence.
        interval: always-valid limits of the candidate's value (``max`` and ``min``), of its change from the control's
            (``max_increase`` and ``max_decrease``), or of its relative change, each at the error of a healthy verdict.
        formula: how its e-values are made, in words.
        typical: what a typical user meets, beside all requests; None where that is not known.
    """

    guardrail: Guardrail
    name: str
    judgement: Judgement
    text: str
    interval: Interval
    formula: str
    typical: ExplainedUser | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision was made, as numbers and as sentences.

    Attributes:
        reason: the decision's.
        guardrails: those in force.
        emergency_stop: its judgement, if it acted.
        control: limits that the control itself was significantly beyond, as sentences.
        sample_ratio: whether requests are split as the weights promise.
        goal: what was found about it.
        secondary_goals: what was found about the others, each with a sentence.
        checks: what came of each, with a sentence; they are outside of alpha.
        warmup: whether the candidate is warm enough for its first users; None where it needs no warm-up.
        texts: of emergency stop, sample ratio, goal and warm-up, by these names, where there is one.
        warnings: what to bear in mind.
        choices: every choice of the analysis, in sentences.
    """

    reason: str
    guardrails: tuple[ExplainedGuardrail, ...]
    emergency_stop: Judgement | None
    control: tuple[str, ...]
    sample_ratio: SampleRatio
    goal: GoalJudgement | None
    secondary_goals: tuple[tuple[GoalJudgement, str], ...]
    checks: tuple[tuple[CheckJudgement, str], ...]
    warmup: WarmupResult | None
    texts: Mapping[str, str]
    warnings: tuple[str, ...]
    choices: tuple[str, ...]


def explain(inputs: Inputs) -> Explanation:
    """Explain the decision that inputs lead to."""
    decided = decide(inputs)
    situation, state = decided.situation, inputs.state
    rollout = situation.rollout
    stopped = next((item for item in situation.judgements if item.guardrail is None), None)
    judged = [item for item in situation.judgements if item.guardrail is not None]
    guardrails: tuple[ExplainedGuardrail, ...] = ()
    if judged:
        # The edges are those that the decision chose; its checkpoints are of no concern to intervals.
        evidence = evidence_of(inputs, decided.history)
        guardrails = tuple(_explained(item, rollout, evidence, state) for item in judged)
    texts = {"sample_ratio": sample_ratio_text(situation.sample_ratio, rollout)}
    if stopped is not None:
        texts["emergency_stop"] = judgement_text(stopped, state)
    if situation.goal is not None:
        texts["goal"] = goal_text(situation.goal, rollout, state)
    if situation.warmup is not None:
        texts["warmup"] = warmup_text(situation.warmup)
    return Explanation(
        reason=reason(decided.decision, situation, inputs.now),
        guardrails=guardrails,
        emergency_stop=stopped,
        control=tuple(breach_text(item, state) for item in situation.control.breaches),
        sample_ratio=situation.sample_ratio,
        goal=situation.goal,
        secondary_goals=tuple((item, goal_text(item, rollout, state)) for item in situation.secondary_goals),
        checks=tuple((item, check_text(item)) for item in situation.checks),
        warmup=situation.warmup,
        texts=texts,
        warnings=tuple(paradox_text(item, state) for item in situation.paradoxes),
        choices=choices(rollout),
    )


def choices(rollout: Rollout) -> tuple[str, ...]:
    """Every choice of a rollout's analysis, in sentences."""
    analysis, stage = rollout.analysis, rollout.stage
    found = [_errors(rollout)]
    found.append(f"a guardrail is healthy at {analysis.alpha:g}, which is not split: all must be healthy before a step")
    found += [
        f"{show_guardrail(guardrail)}, harm: any: a significant "
        f"{'increase over' if guardrail.upper else 'decrease below'} the control that is not significantly within the "
        f"limit is harm"
        for guardrail in rollout.guardrails
        if guardrail.harm == "any"
    ]
    found += _effects(rollout)
    if analysis.emergency_stop < 1:
        limit = format_share(analysis.emergency_stop)
        watch = format_duration(analysis.emergency_stop_after_promotion)
        found.append(
            f"emergency stop at {limit} errors, if the control has fewer, or no users; one of the alarms; it stays in "
            f"force for {watch} after a promotion"
        )
    else:
        found.append("no emergency stop")
    does = "holds the rollout" if analysis.on_sample_ratio == "hold" else "is only reported"
    found.append(f"sample-ratio alarm at {analysis.sample_ratio_alpha:g}, which {does}")
    found.append(f"tests of means are most powerful at {rollout.tuned_for} requests of the candidate")
    found.append("half of every alarm's weight is on the whole rollout, half on harm that began later")
    found.append("half of each is on all users, half on all but each variant's busiest slices of users")
    found += _floors(rollout)
    if rollout.goal is not None:
        found.append(_goal(rollout, rollout.goal))
    if rollout.checks:
        acting = ", ".join(f"{check.name} ({check.on_failure})" for check in rollout.checks)
        found.append(f"checks {acting}: thresholds on other people's numbers, outside of alpha; no answer holds")
    if rollout.secondary_goals:
        names = ", ".join(goal.metric for goal in rollout.secondary_goals)
        found.append(
            f"secondary goals {names}: reported at {rollout.analysis.alpha:g} with Holm's correction for all "
            f"{len(rollout.goals)} goals; they decide nothing, so the primary goal keeps its own error probability"
        )
    found.append(
        f"a stage lasts at least {format_duration(stage.min_duration)} and {stage.min_requests} requests of the "
        f"candidate{_timeout(rollout)}"
    )
    if rollout.warmup is not None:
        found.append(_warmup(rollout.warmup))
    return tuple(found)


def _effects(rollout: Rollout) -> list[str]:
    """What guardrails do beyond rolling back, and what a broken control does."""
    watching = [show_guardrail(item) for item in rollout.guardrails if item.dry_run]
    pausing = [
        show_guardrail(item)
        for item in rollout.guardrails
        if not item.dry_run and (item.on_harm or rollout.on_harm) == "pause"
    ]
    found = []
    if watching:
        found.append(f"only watched, neither an alarm nor a reason to hold (dry_run): {', '.join(watching)}")
    if pausing:
        found.append(f"harm pauses in place of rolling back (on_harm: pause): {', '.join(pausing)}")
    does = "holds the rollout" if rollout.on_broken_control == "hold" else "is reported, and the rollout goes on"
    found.append(f"a control that is itself significantly beyond a max, a min or the emergency stop {does}")
    return found


def _floors(rollout: Rollout) -> list[str]:
    """What happens with few users, for the kinds of metrics that are judged."""
    judged = [guardrail.measured for guardrail in rollout.guardrails if guardrail.per == "request"]
    judged += [goal.measured for goal in rollout.goals]
    found = []
    if any(metric.share for metric in judged):
        found.append(f"a share of requests with fewer than {MIN_SLICES} slices of users counts each as one request")
    if any(metric.quantile is not None for metric in judged):
        found.append(f"a quantile with fewer than {MIN_GROUPS} groups of users counts each as one request")
    if any(metric.quantile is None and not metric.share for metric in judged):
        found.append(
            f"a mean or a rate of events needs {MIN_MEAN} of what it is over, and {MIN_SLICES} slices of users with any"
        )
    if any(guardrail.per == "user" for guardrail in rollout.guardrails):
        found.append(
            f"a guardrail per user needs {MIN_MEAN} of what it is over, and {MIN_SLICES} slices of users; slices with "
            f"far more requests than is usual are left out"
        )
    return found


def _errors(rollout: Rollout) -> str:
    """What alpha promises."""
    if not rollout.alarms:
        return "there is neither a guardrail nor an emergency stop, so no alarm rolls back"
    harmless = []
    acting = [guardrail for guardrail in rollout.guardrails if not guardrail.dry_run]
    if any(guardrail.harm == "limit" for guardrail in acting) or rollout.analysis.emergency_stop < 1:
        harmless.append("keeps its limits")
    strict = dict.fromkeys(guardrail.metric for guardrail in acting if guardrail.harm == "any")
    if strict:
        harmless.append(f"is no worse than the control on {', '.join(strict)}")
    if rollout.mode == "experiment":
        harmless.append("is not worse on the goal")
    pauses = any((guardrail.on_harm or rollout.on_harm) == "pause" for guardrail in acting)
    ends = "rolled back or paused" if pauses else "rolled back"
    return (
        f"alpha {rollout.analysis.alpha:g}: a candidate that {' and '.join(harmless)} is {ends} with at most this "
        f"probability over the whole rollout, however often someone looks; split over {rollout.alarms} "
        f"alarm{'s' if rollout.alarms > 1 else ''}, {rollout.alpha_alarm:.3g} each"
    )


def _goal(rollout: Rollout, goal: Goal) -> str:
    kind = "at any look" if goal.design == "anytime" else f"at {goal.looks} planned looks (O'Brien-Fleming)"
    text = f"goal {goal.metric}, {'more' if goal.more_is_better else 'less'} is better"
    planned = "" if goal.planned_requests is None else f", at most {goal.planned_requests} requests of the candidate"
    found = [
        f"{text}, decided {kind}{planned}: won at {rollout.alpha_better:.3g}, lost at {rollout.alpha_worse:.3g}, each "
        f"on its side"
    ]
    if rollout.mode == "experiment":
        found.append("a loser is rolled back, and is one of the alarms")
    else:
        found.append("it is reported and decides nothing")
    if goal.min_effect is None:
        found.append("no min_effect, so no difference is too small to continue for")
    else:
        found.append(f"min_effect {_effect(goal)}, ruled out at {rollout.analysis.alpha:g}")
    return "; ".join(found)


def _effect(goal: Goal) -> str:
    effect = goal.min_effect
    assert effect is not None
    amount = show_limit(effect, goal.measured, relative=goal.relative)
    return f"{amount} of the control" if goal.relative else amount


def _timeout(rollout: Rollout) -> str:
    longest = rollout.stage.max_duration
    if longest is None:
        return ", and may last forever (no max_duration)"
    if rollout.on_timeout == "hold":
        return f"; after {format_duration(longest)} it keeps holding (on_timeout: hold)"
    return f"; after {format_duration(longest)} it is rolled back (on_timeout: rollback), which alpha does not count"


def _warmup(warmup: Warmup) -> str:
    return (
        f"warm-up: {warmup.min_requests} to {warmup.max_requests} requests in at most "
        f"{format_duration(warmup.max_duration)}, until the median of the last ones is at most "
        f"{format_share(warmup.settled)} below that of as many before"
    )


def _explained(
    judgement: Judgement, rollout: Rollout, evidence: RolloutEvidence, state: ExperimentState
) -> ExplainedGuardrail:
    guardrail = judgement.guardrail
    assert guardrail is not None
    metric, alpha = guardrail.measured, rollout.analysis.alpha
    if guardrail.segment is not None:
        evidence = evidence.in_segment(guardrail.segment)
    by_user = guardrail.per == "user"
    looked_at = evidence if by_user else evidence.kept(metric)
    comparison = compare(metric, looked_at, rollout.tuned_for, alpha, by_user=by_user)
    limit = plain(guardrail.limit)
    if guardrail.compares:
        margin = limit if guardrail.upper else -limit
        interval = increase_interval(comparison, alpha, relative=guardrail.relative, share=metric.share, judged=margin)
    else:
        interval = level_interval(
            comparison, alpha, share=metric.share, lowest=-1.0 if metric.signed else 0.0, judged=limit
        )
    return ExplainedGuardrail(
        guardrail=guardrail,
        name=show_guardrail(guardrail),
        judgement=judgement,
        text=judgement_text(judgement, state),
        interval=interval,
        formula=formula_of(guardrail),
        typical=explained_user(judgement, rollout, evidence),
    )


def show_interval(guardrail: Guardrail, interval: Interval) -> str:
    """An interval of :class:`ExplainedGuardrail` for people to read."""
    return f"{_bound(guardrail, interval.lower)} to {_bound(guardrail, interval.upper)}"


def _bound(guardrail: Guardrail, value: float) -> str:
    if math.isinf(value):
        return "no limit"
    sign = "+" if guardrail.compares and value > 0 else ""
    if guardrail.relative:
        return f"{sign}{format_share(value)}"
    return f"{sign}{show_value(guardrail.measured, value)}"
