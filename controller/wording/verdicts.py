"""Verdicts as sentences, without a full stop. Pure.

Used by :mod:`controller.wording.reasons`, by the journal's entries and by ``abmesh explain``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from abmesh.experiment.limits import Goal, Guardrail
from abmesh.experiment.quantities import format_duration, format_share
from abmesh.experiment.rollout import Rollout, Warmup
from abmesh.inference.numbers import always_valid_p
from controller.decision.guardrails import keeps
from controller.decision.verdicts import (
    GoalJudgement,
    GoalVerdict,
    Judgement,
    OnHarm,
    Paradox,
    SampleRatio,
    SetAside,
    Trend,
    Verdict,
)
from controller.decision.warmup import AGAIN_AFTER, Progress, WarmupResult, WarmupState
from controller.records import ExperimentState
from controller.wording.control import set_aside_text
from controller.wording.open_verdicts import open_text
from controller.wording.users import disagreement_text
from controller.wording.values import show_change, show_effect, show_probability, show_value

HEAVY: Final = 0.15
"""Share of a variant's requests from which a slice of users is said to dominate; of 50 slices, each should have 2%."""


def judgement_text(judgement: Judgement, state: ExperimentState) -> str:
    """A judgement of a guardrail, or of the emergency stop.

    Args:
        judgement: what was found.
        state: of the rollout, for the variants' names.
    """
    if judgement.guardrail is None:
        text = _emergency_stop(judgement, state.control)
    else:
        text = _guardrail(judgement, judgement.guardrail, state)
    dry = "; it only watches (dry_run)" if judgement.on_harm is OnHarm.REPORT else ""
    return f"{text}{dry}{set_aside_text(judgement.set_aside, state)}"


def _guardrail(judgement: Judgement, guardrail: Guardrail, state: ExperimentState) -> str:
    text = _verdict(judgement, guardrail, state)
    found = judgement.typical
    if found is None or not found.disagree:
        return text
    return f"{text}; but {disagreement_text(found, guardrail.measured)}"


def _verdict(judgement: Judgement, guardrail: Guardrail, state: ExperimentState) -> str:
    metric, subject = guardrail.measured, guardrail.subject
    of = "of" if guardrail.segment is None else "on"
    if judgement.value is None:
        return f"there is no data on {subject} {of} {state.candidate} yet"
    if judgement.limit is None:
        return f"there is no data on {subject} {of} {state.control} to compare with"
    limit = f"its limit of {show_value(metric, judgement.limit)}"
    if judgement.limit == guardrail.negligible:
        limit = f"{limit}, below which it is negligible"
    elif guardrail.compares and judgement.control is not None:
        allowed = show_change(guardrail.limit, metric, relative=guardrail.relative, upper=guardrail.upper)
        limit = f"{limit} ({state.control}'s {show_value(metric, judgement.control)} {allowed})"
    per = " per user" if guardrail.per == "user" else ""
    text = f"{subject}{per} {show_value(metric, judgement.value)} over {judgement.n} {metric.things}"
    if judgement.others:
        text = f"{text} without the busiest users"
    if judgement.since is not None:
        text = f"{text} in the last {judgement.since:.0f} s"
    if judgement.verdict is Verdict.HARMFUL:
        return f"{text} {_harm(judgement, guardrail, limit, state.control)}"
    if judgement.thin:
        return f"{text} cannot be judged yet: too few users of this segment send most of its requests"
    moves = judgement.trend in (Trend.RISING, Trend.FALLING)
    if moves or (judgement.trend is Trend.STEADY and judgement.verdict is Verdict.INCONCLUSIVE):
        text = f"{text}, {judgement.trend},"
    if judgement.verdict is Verdict.HEALTHY:
        return f"{text} is significantly within {limit}: p {show_probability(judgement.p_healthy)}"
    if judgement.healthy:
        latest = "" if judgement.latest is None else f", where it is {show_value(metric, judgement.latest)}"
        return f"{text} is significantly within {limit} over all stages, but not within it in this stage alone{latest}"
    return f"{text} {open_text(judgement, guardrail, limit, state)}"


def heaviest_text(judgements: Iterable[Judgement]) -> str:
    """That few users speak for all of them; empty where they do not."""
    share = max((item.heaviest for item in judgements), default=0.0)
    return heavy_text(share, "a variant") if share >= HEAVY else ""


def heavy_text(share: float, whose: str) -> str:
    """That one slice of users has so much, 0..1, of a variant's requests."""
    return f"one slice of users has {format_share(round(share, 2))} of {whose}'s requests"


def _harm(judgement: Judgement, guardrail: Guardrail, limit: str, control: str) -> str:
    assert judgement.value is not None
    assert judgement.limit is not None
    beyond = "above" if guardrail.upper else "below"
    found = f"is significantly {beyond} {limit}"
    if guardrail.harm == "any" and keeps(guardrail, judgement.value, judgement.limit):
        found = f"is significantly {beyond} {control}'s, and not significantly within {limit}"
    if not judgement.still:
        found = f"was significantly {beyond} {limit} at an earlier look"
    p, alpha = show_probability(judgement.p_harm), show_probability(judgement.alpha_harm)
    return f"{found}: p {p}, {show_effect(judgement.on_harm)} at {alpha}"


def _emergency_stop(judgement: Judgement, control: str) -> str:
    assert judgement.value is not None
    assert judgement.limit is not None
    value, limit = format_share(judgement.value), format_share(judgement.limit)
    p = f"p {show_probability(judgement.p_harm)}, rolls back at {show_probability(judgement.alpha_harm)}"
    if not judgement.still:
        return (
            f"emergency stop: error_rate was significantly above {limit} at an earlier look, and is {value} over "
            f"{judgement.n} requests now: {p}"
        )
    span = " without the busiest users" if judgement.others else ""
    if judgement.since is not None:
        span = f" in the last {judgement.since:.0f} s"
    against = "" if judgement.control is None else f" and above {control}'s {format_share(judgement.control)}"
    return (
        f"emergency stop: error_rate {value} over {judgement.n} requests{span} is significantly above "
        f"{limit}{against}: {p}"
    )


def goal_text(judgement: GoalJudgement, rollout: Rollout, state: ExperimentState) -> str:
    """A judgement of the rollout's primary goal, or of a secondary one."""
    goal = next(item for item in rollout.goals if item.metric == judgement.metric)
    metric = goal.measured
    if judgement.value is None or judgement.control is None:
        return f"there is no data on {metric.name} of both variants yet"
    sense = {
        GoalVerdict.WINNER: "is significantly better",
        GoalVerdict.LOSER: "is significantly worse",
        GoalVerdict.NO_DIFFERENCE: "is significantly short of min_effect",
        GoalVerdict.INCONCLUSIVE: (
            f"is neither significantly better nor worse after the planned {goal.planned_requests} {metric.things}"
        ),
        GoalVerdict.OPEN: "is neither significantly better nor worse yet",
    }[judgement.verdict]
    better = "more" if goal.more_is_better else "less"
    values = (
        f"{metric.name} {show_value(metric, judgement.value)} on {state.candidate}, "
        f"{show_value(metric, judgement.control)} on {state.control}, {better} is better"
    )
    text = f"{state.candidate} {sense}: {values}; {_test(judgement, goal, rollout)}"
    if judgement.set_aside is SetAside.CONTROL_BROKEN:
        return f"{text}; it does not count, because {state.control} is broken"
    return f"{text}{set_aside_text(judgement.set_aside, state)}"


def _test(judgement: GoalJudgement, goal: Goal, rollout: Rollout) -> str:
    """Where a goal's test stands."""
    if goal is not rollout.goal:
        assert judgement.adjusted is not None
        needed = show_probability(rollout.analysis.alpha)
        return (
            f"two-sided p {show_probability(judgement.adjusted)} at any look, corrected for {len(rollout.goals)} goals "
            f"(Holm), significant at {needed}; it decides nothing"
        )
    if goal.design == "anytime":
        up = judgement.log_e_better >= judgement.log_e_worse
        p = always_valid_p(judgement.log_e_better if up else judgement.log_e_worse)
        alpha = rollout.alpha_better if up else rollout.alpha_worse
        return f"one-sided p {show_probability(p)} at any look, decides at {show_probability(alpha)}"
    if judgement.boundary is None or judgement.look_z is None:
        return f"look {judgement.looks + 1} of {goal.looks} has not come yet"
    return f"z {judgement.look_z:.3g} at look {judgement.looks} of {goal.looks}, decides at {judgement.boundary:.3g}"


def sample_ratio_text(found: SampleRatio, rollout: Rollout) -> str:
    """Whether requests are split as the weights promise."""
    if not found.alarm:
        return f"requests are split as the weights promise: p {show_probability(found.p)}"
    split = ", ".join(
        f"{name} {format_share(share)} instead of {format_share(found.promised[name])}"
        for name, share in found.seen.items()
    )
    when = "are not split as the weights promise" if found.now else "were not split as the weights promise earlier"
    p, alpha = show_probability(found.p), show_probability(rollout.analysis.sample_ratio_alpha)
    return (
        f"requests {when} ({split} in this stage): p {p}, alarms at {alpha}. Look for a variant so slow that its users "
        f"send fewer requests, for requests that are lost or answered before Envoy counts them, and for clients that "
        f"do not return their cookie. After the fix, abmesh pause and abmesh resume start afresh"
    )


def paradox_text(found: Paradox, state: ExperimentState) -> str:
    """A warning of Simpson's paradox."""
    if found.parts == "stages":
        return (
            f"Simpson's paradox: {found.metric} compares {state.candidate} with {state.control} one way in every stage "
            f"and the other way over all stages together, because the rate drifted while the weights changed; verdicts "
            f"compare by stage"
        )
    return (
        f"Simpson's paradox: {found.metric} compares {state.candidate} with {state.control} one way in every segment "
        f"and the other way over all users together, because the variants' users are a different mix of segments; "
        f"trust the segments"
    )


def warmup_text(result: WarmupResult) -> str:
    """What follows the candidate's name: ``is warming up: 12 of at most 100 requests, last 180 ms``."""
    warmup, progress = result.warmup, result.progress
    if result.state is WarmupState.GOING:
        if progress.began is None:
            return "is about to warm up"
        last = "" if progress.last_ms is None else f", last {_ms(progress.last_ms)}"
        sent = f"{progress.requests} of at most {warmup.max_requests} requests"
        return f"is warming up: {sent}{last}{_failures(progress)}"
    if result.state is WarmupState.WARM:
        return f"warmed up with {progress.requests} requests{_change(progress)}"
    if result.state is WarmupState.UNSETTLED:
        limit = ", the max_requests"
        if progress.requests < warmup.max_requests:
            limit = f" in {format_duration(warmup.max_duration)}, the max_duration"
        taken = f"counts as warm after {progress.requests} requests{limit}, although its latency has not settled"
        return f"{taken}{_change(progress)}{_failures(progress)}"
    if progress.listeners == 0:
        return (
            "cannot warm up: the controller knows no warm-up listener; start it with --warmup http://HOST:PORT, or "
            "remove warmup from the document"
        )
    return f"{_failed(progress, warmup)}; the next try is {format_duration(AGAIN_AFTER)} later"


def _failed(progress: Progress, warmup: Warmup) -> str:
    if progress.requests == 0:
        return f"could not warm up: no request was answered within {format_duration(warmup.max_duration)}"
    why = f", the last one with: {progress.problem}"
    if progress.failing == progress.requests:
        return f"could not warm up: all {progress.requests} requests failed{why}"
    return f"could not warm up: the last {progress.failing} of {progress.requests} requests failed{why}"


def _change(progress: Progress) -> str:
    last = progress.last_ms if progress.after_ms is None else progress.after_ms
    if progress.first_ms is None or last is None:
        return ""
    return f": {_ms(progress.first_ms)} -> {_ms(last)}"


def _failures(progress: Progress) -> str:
    return f", {progress.failed} failed, the last one with: {progress.problem}" if progress.failed else ""


def _ms(duration: float) -> str:
    """Tenths only where they matter."""
    return f"{duration:.0f} ms" if duration >= 9.95 else f"{duration:.1f} ms"
