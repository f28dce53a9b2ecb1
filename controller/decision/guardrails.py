"""A verdict on each guardrail: non-inferior, harmful, or not known yet. Pure.

Harm is a one-sided question about the candidate's value ``b``, its limit and, with ``max_increase``, the control's
value ``a``. Two e-values are kept, each valid at any time:

    harm      against "b is at most its limit"; with ``harm: any``, also against "b is at most a"
    health    against "b is at least its limit"

    HARMFUL       the first is at least 1/alpha_harm
    HEALTHY       the second is at least 1/alpha, and the present stage's own value is within the limit
    INCONCLUSIVE  neither

Where more is better, the limit is ``min`` or ``max_decrease``, and all of this is the other way round. Harm stays
proven, whatever comes after it, should anything keep the rollback from being carried out at once. Health is that of the
present: a step is only taken while the candidate is healthy.

Equivalently, harm is proven where the lower confidence limit of ``b`` (or of ``b - a``, or ``b / a``) is above what is
allowed, and health where the upper one is below. After Schultzberg et al., *Risk-aware product decisions in A/B tests
with multiple metrics* (2024, arXiv 2402.11609): alpha is split over the alarms that can roll back, because any of them
does; it is not split over the guardrails' health, because all of them must be healthy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.quantities import format_duration
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Floats, Side
from controller.decision.comparison import Comparison, Values
from controller.decision.comparisons import compare
from controller.decision.course import Course
from controller.decision.verdicts import Judgement, Verdict
from controller.wording.values import show_amount, show_change, show_value

FARTHEST = 1e4
"""Times the present stage's requests, beyond which no estimate of what is needed is given."""


def question(guardrail: Guardrail) -> str:
    """What the guardrail's e-value for harm speaks against, for :class:`~controller.decision.history.Memory`."""
    limit = f"{guardrail.metric} {guardrail.kind} {plain(guardrail.limit):g}"
    if not guardrail.compares:
        return limit
    return f"{limit}{' of the control' if guardrail.relative else ''}, harm {guardrail.harm}"


def judge(guardrail: Guardrail, rollout: Rollout, course: Course, peak: float = -math.inf) -> Judgement:
    """The verdict on one guardrail.

    Args:
        guardrail: of the rollout.
        rollout: the plan, whose analysis says how sure to be.
        course: the evidence.
        peak: the largest logarithm that the e-value for harm has had at earlier looks.
    """
    metric = guardrail.measured
    alpha = rollout.analysis.alpha
    alpha_harm = rollout.alpha_alarm
    found = compare(metric, course, rollout.tuned_for, alpha)
    kind, harm = guardrail.kind, _harm(guardrail)
    values = found.values
    if values.candidate is None:
        text = f"{metric.name} of {course.candidate} has no data yet"
        return Judgement(metric.name, kind, Verdict.ERROR, text)
    reference = values.control if guardrail.compares else None
    if guardrail.compares and reference is None:
        text = f"{metric.name} of {course.control} has no data to compare with"
        return Judgement(metric.name, kind, Verdict.ERROR, text, values.candidate, n=round(values.n))
    limit = limit_of(guardrail, reference)
    log_e_harm, row = course.mixed(_log_e(guardrail, found, harm))
    log_e_healthy = float(_log_e(guardrail, found.grown(1.0), _OPPOSITE[harm])[0])
    healthy = log_e_healthy >= -math.log(alpha)
    within = _latest_within(guardrail, values)
    proven = -math.log(alpha_harm)
    if max(log_e_harm, peak) >= proven:
        verdict = Verdict.HARMFUL
    elif healthy and within:
        verdict = Verdict.HEALTHY
    else:
        verdict = Verdict.INCONCLUSIVE
    if guardrail.harm == "any" and verdict is Verdict.INCONCLUSIVE and not healthy:
        log_e_any, row_any = course.mixed(found.increase(harm, 0.0, relative=guardrail.relative))
        if log_e_any > log_e_harm:
            log_e_harm, row = log_e_any, row_any
        if log_e_harm >= proven:
            verdict = Verdict.HARMFUL
    still = log_e_harm >= proven
    needed = None
    if verdict is Verdict.INCONCLUSIVE and not healthy:
        needed = requests_needed(
            found,
            lambda grown: (
                _log_e(guardrail, grown, _OPPOSITE[harm])[0] >= -math.log(alpha)
                or _log_e(guardrail, grown, harm)[0] >= -math.log(alpha_harm / 2)
            ),
        )
    judgement = Judgement(
        metric=metric.name,
        kind=kind,
        verdict=verdict,
        text="",
        value=values.candidate,
        limit=limit,
        control=reference,
        n=round(values.n),
        log_e_harm=max(log_e_harm, peak),
        log_e_healthy=log_e_healthy,
        alpha_harm=alpha_harm,
        alpha_healthy=alpha,
        design_effect=values.design_effect,
        needed=needed,
    )
    if verdict is Verdict.HARMFUL and still and row:
        value, n = found.moment(row)
        judgement = replace(judgement, value=value, n=n, since=course.seconds_since(row))
    return worded(judgement, guardrail, course, values, within=within, still=still)


def requests_needed(found: Comparison, decided: Callable[[Comparison], bool]) -> int | None:
    """About how many more requests of the candidate it takes to decide, if the present stage goes on as it has been.

    Args:
        found: the comparison now.
        decided: whether a comparison decides.

    Returns:
        Requests; None if even 10,000 times as many would not do, as where the value is at its limit.
    """
    low, high = 1.0, 1.0
    while not decided(found.grown(high)):
        low, high = high, high * 2
        if high > FARTHEST:
            return None
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(found.grown(middle)) else (middle, high)
    return max(1, math.ceil(found.grown(high).values.n - found.values.n))


def worded(
    judgement: Judgement, guardrail: Guardrail, course: Course, values: Values, *, within: bool, still: bool
) -> Judgement:
    """The judgement with its sentence.

    Args:
        judgement: without one.
        guardrail: that it is about.
        course: the evidence.
        values: what was compared.
        within: whether the present stage's own value is within the limit.
        still: whether harm that is proven shows in the evidence as it is now.
    """
    metric = guardrail.measured
    assert judgement.value is not None
    assert judgement.limit is not None
    text = f"{metric.name} {show_value(metric, judgement.value)} over {judgement.n} {metric.things}"
    if judgement.since is not None:
        text = f"{text} in the last {judgement.since:.0f} s"
    limit = f"its limit of {show_value(metric, judgement.limit)}"
    if guardrail.compares and judgement.control is not None:
        allowed = show_change(guardrail.limit, metric, relative=guardrail.relative, upper=guardrail.upper)
        limit = f"{limit} ({course.control}'s {show_value(metric, judgement.control)} {allowed})"
    beyond = "above" if guardrail.upper else "below"
    if judgement.verdict is Verdict.HARMFUL:
        what = f"is surely {beyond} {limit}"
        if guardrail.harm == "any" and keeps(guardrail, judgement.value, judgement.limit):
            what = f"is surely {beyond} {course.control}'s, and not surely within {limit}"
        if not still:
            what = f"was surely too {'high' if guardrail.upper else 'low'} at an earlier look, against {limit}"
        text = f"{text} {what}: p {show_amount(judgement.p_harm)}, where {show_amount(judgement.alpha_harm)} rolls back"
    elif judgement.verdict is Verdict.HEALTHY:
        text = f"{text} is surely within {limit}: p {show_amount(judgement.p_healthy)}"
    elif not within and judgement.p_healthy <= judgement.alpha_healthy:
        text = f"{text} is surely within {limit}, but its value in this stage alone is not"
    else:
        needs = f"more {metric.things} than can be said"
        if judgement.needed is not None:
            needs = missing(judgement.needed, metric.things, values.latest_n, course.elapsed)
        text = (
            f"{text} is not yet surely within {limit}: p {show_amount(judgement.p_healthy)}, where "
            f"{show_amount(judgement.alpha_healthy)} is enough; it takes {needs}"
        )
    return replace(judgement, text=text)


def missing(needed: int, things: str, seen: float, elapsed: timedelta) -> str:
    """So many more, and how long they take at the present rate: ``about 1200 more requests (14m at this rate)``.

    Args:
        needed: how many more.
        things: what they are.
        seen: how many the present stage has had.
        elapsed: in what time.
    """
    digits = 10 ** max(0, len(str(needed)) - 2)
    shown = -(-needed // digits) * digits
    text = f"about {shown} more {things}"
    if seen <= 0 or not elapsed:
        return text
    lasts = elapsed / seen * needed
    if lasts > timedelta(days=365):
        return f"{text} (more than a year at this rate)"
    coarse = timedelta(minutes=1) if lasts >= timedelta(minutes=10) else timedelta(seconds=1)
    return f"{text} ({format_duration(max(coarse, lasts // coarse * coarse))} at this rate)"


_OPPOSITE = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER}


def _harm(guardrail: Guardrail) -> Side:
    """On which side of the limit harm lies."""
    return Side.GREATER if guardrail.upper else Side.LESS


def _log_e(guardrail: Guardrail, found: Comparison, side: Side) -> Floats:
    limit = plain(guardrail.limit)
    if not guardrail.compares:
        return found.level(side, limit)
    return found.increase(side, limit if guardrail.upper else -limit, relative=guardrail.relative)


def _latest_within(guardrail: Guardrail, values: Values) -> bool:
    """Whether the present stage's own values keep the limit; also where it has none yet."""
    if values.latest is None:
        return True
    if not guardrail.compares:
        return keeps(guardrail, values.latest, plain(guardrail.limit))
    return values.latest_control is None or keeps(guardrail, values.latest, limit_of(guardrail, values.latest_control))


def keeps(guardrail: Guardrail, value: float, limit: float) -> bool:
    """Whether a value is on the limit's good side."""
    return value <= limit if guardrail.upper else value >= limit


def limit_of(guardrail: Guardrail, reference: float | None) -> float:
    """The last value allowed: a share in 0..1, milliseconds, or whatever the metric is measured in.

    Args:
        guardrail: the limit.
        reference: the control's value, where the limit is a distance from it.
    """
    limit = plain(guardrail.limit)
    if not guardrail.compares:
        return limit
    assert reference is not None
    change = limit if guardrail.upper else -limit
    return reference * (1 + change) if guardrail.relative else reference + change


def plain(limit: float | timedelta) -> float:
    """A limit as a number: a share, or milliseconds."""
    return limit / timedelta(milliseconds=1) if isinstance(limit, timedelta) else limit
