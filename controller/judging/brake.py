"""The emergency brake: a candidate that fails outright, whatever the guardrails say. Pure.

HARMFUL where the candidate's error rate is surely above ``brake`` *and* surely above the control's, so that an outage
behind both is not blamed on the candidate; above ``brake`` alone where the control has no requests. The hypothesis to
be rejected is "one of the two does not hold", for which the smaller of the two e-values is one: whichever part is true,
its own e-value is at least as large. It looks since every marked moment, as guardrails do.
"""

from __future__ import annotations

import math
from dataclasses import replace

from controller.inference.numbers import Side
from controller.judging.course import Course
from controller.judging.shares import ShareComparison
from controller.judging.verdicts import Judgement, Verdict
from controller.judging.wording import show_amount
from experiment.metrics import ERROR_RATE
from experiment.quantities import format_share
from experiment.rollout import Rollout

KIND = "brake"


def question(rollout: Rollout) -> str:
    """What the brake's e-value speaks against, for :class:`~controller.memory.Memory`."""
    return f"errors at most {rollout.analysis.brake:g} or as the control's"


def judge_brake(rollout: Rollout, course: Course, peak: float = -math.inf) -> Judgement | None:
    """The brake's verdict, if it is harm; None otherwise, since a brake never says that all is well.

    Args:
        rollout: the plan.
        course: the evidence.
        peak: the largest logarithm that the e-value has had at earlier looks.
    """
    limit = rollout.analysis.brake
    if limit >= 1:
        return None
    found = ShareComparison.of(course, ERROR_RATE)
    values = found.values
    if values.candidate is None:
        return None
    log_e, row = course.mixed(found.level(Side.GREATER, limit))
    if values.control_n > 0:
        # From 1 to 1, so that the comparison is scale-free and knows no margin.
        against, row_against = course.mixed(found.increase(Side.GREATER, 0.0, relative=True))
        if against < log_e:
            log_e, row = against, row or row_against
    alpha = rollout.alpha_alarm
    still = log_e >= -math.log(alpha)
    log_e = max(log_e, peak)
    if log_e < -math.log(alpha):
        return None
    judgement = Judgement(
        metric=ERROR_RATE.name,
        kind=KIND,
        verdict=Verdict.HARMFUL,
        text="",
        value=values.candidate,
        limit=limit,
        control=values.control,
        n=round(values.n),
        log_e_harm=log_e,
        alpha_harm=alpha,
        alpha_healthy=rollout.analysis.alpha,
        design_effect=values.design_effect,
    )
    span = ""
    if row and still:
        value, n = found.moment(row)
        judgement = replace(judgement, value=value, n=n, since=course.seconds_since(row))
        span = f" in the last {judgement.since:.0f} s"
    control = "" if values.control is None else f" and above {course.control}'s {format_share(values.control)}"
    assert judgement.value is not None
    text = (
        f"emergency brake: error_rate {format_share(judgement.value)} over {judgement.n} requests{span} is surely "
        f"above {format_share(limit)}{control}: p {show_amount(judgement.p_harm)}, where {show_amount(alpha)} brakes"
    )
    if not still:
        text = (
            f"emergency brake: error_rate was surely above {format_share(limit)} at an earlier look, and is "
            f"{format_share(judgement.value)} over {judgement.n} requests by now: "
            f"p {show_amount(judgement.p_harm)}, where {show_amount(alpha)} brakes"
        )
    return replace(judgement, text=text)
