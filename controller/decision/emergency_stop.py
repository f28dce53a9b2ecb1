"""The emergency brake: a candidate that fails outright, whatever the guardrails say. Pure.

HARMFUL where the candidate's error rate is surely above ``brake`` *and* surely above the control's, so that an outage
behind both is not blamed on the candidate; above ``brake`` alone where the control has no requests. The hypothesis to
be rejected is "one of the two does not hold", for which the smaller of the two e-values is one: whichever part is true,
its own e-value is at least as large. It looks since every marked moment, as guardrails do.

A user who sends most of a variant's requests, such as a probe that only asks for what does not fail, would hide what
happens to all others: users differ so much then that nothing is sure of their requests. So half of the weight is on
everybody but the busiest slice of each variant; the mean of two e-values is one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from abmesh.experiment.metrics import ERROR_RATE
from abmesh.experiment.quantities import format_share
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Side
from controller.decision.course import Course
from controller.decision.shares import ShareComparison
from controller.decision.verdicts import Judgement, Verdict
from controller.wording.values import show_amount

KIND = "brake"


def question(rollout: Rollout) -> str:
    """What the brake's e-value speaks against, for :class:`~controller.decision.history.Memory`."""
    return f"errors at most {rollout.analysis.emergency_stop:g} or as the control's"


def _log_e(found: ShareComparison, course: Course, limit: float) -> tuple[float, int]:
    """Against "at most the limit, or no more than the control", and the row that says most; 0 of no requests."""
    if found.values.candidate is None:
        return 0.0, 0
    log_e, row = course.mixed(found.level(Side.GREATER, limit))
    if found.values.control_n > 0:
        # From 1 to 1, so that the comparison is scale-free and knows no margin.
        against, row_against = course.mixed(found.increase(Side.GREATER, 0.0, relative=True))
        if against < log_e:
            log_e, row = against, row or row_against
    return log_e, row


def judge_brake(rollout: Rollout, course: Course, peak: float = -math.inf) -> Judgement | None:
    """The brake's verdict, if it is harm; None otherwise, since a brake never says that all is well.

    Args:
        rollout: the plan.
        course: the evidence.
        peak: the largest logarithm that the e-value has had at earlier looks.
    """
    limit = rollout.analysis.emergency_stop
    if limit >= 1:
        return None
    found = ShareComparison.of(course, ERROR_RATE)
    if found.values.candidate is None:
        return None
    others = course.without_busiest()
    found_others = ShareComparison.of(others, ERROR_RATE)
    log_e, row = _log_e(found, course, limit)
    # A control of which nobody else is left tells nothing, and is not one without requests.
    comparable = found_others.values.control_n > 0 or not found.values.control_n
    log_e_others = _log_e(found_others, others, limit)[0] if comparable else 0.0
    # It is told of everybody where that alone would do.
    alpha = rollout.alpha_alarm
    aside = log_e < -math.log(alpha) and log_e < log_e_others
    values = found_others.values if aside else found.values
    log_e = float(np.logaddexp(log_e, log_e_others)) - math.log(2)
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
    span = ", those of the busiest users left aside," if aside and still else ""
    if row and still and not aside:
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
