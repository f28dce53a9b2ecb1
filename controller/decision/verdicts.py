"""What a judge finds, as data: verdicts and the numbers behind them. Pure.

Made by the judges beside this module, weighed by :mod:`controller.decision.policy`, put into sentences by
:mod:`controller.wording`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from abmesh.experiment.limits import Guardrail
from abmesh.inference.numbers import always_valid_p


class Verdict(StrEnum):
    """What the evidence says about a guardrail.

    HEALTHY lets a rollout go on, HARMFUL rolls it back. INCONCLUSIVE and ERROR hold it: there is too little evidence,
    or none that can be judged.
    """

    HEALTHY = "healthy"
    HARMFUL = "harmful"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Trend(StrEnum):
    """Which way a candidate's value has moved in the current stage.

    RISING and FALLING: by more than noise. STEADY: not so, and noise is too small to hide a move to the limit.
    """

    RISING = "rising"
    FALLING = "falling"
    STEADY = "steady"
    UNKNOWN = "unknown"


class OnHarm(StrEnum):
    """What a guardrail that finds harm does: rolls back, pauses, or is only reported (``dry_run``)."""

    ROLLBACK = "rollback"
    PAUSE = "pause"
    REPORT = "report"


class SetAside(StrEnum):
    """Why a verdict does not count; see :mod:`controller.decision.control`.

    CONTROL_FAILS: the comparison is with a control that fails significantly more often. CONTROL_BROKEN: users would go
    to a control that is itself beyond a limit, and the candidate is not significantly worse there.
    """

    CONTROL_FAILS = "control_fails"
    CONTROL_BROKEN = "control_broken"


class GoalVerdict(StrEnum):
    """What the evidence says about the goal.

    WINNER and LOSER: the candidate is significantly better, or worse. NO_DIFFERENCE: a difference worth having is ruled
    out. INCONCLUSIVE: the planned size is reached without any of these. OPEN: more requests may still decide.
    """

    WINNER = "winner"
    LOSER = "loser"
    NO_DIFFERENCE = "no_difference"
    INCONCLUSIVE = "inconclusive"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class TypicalUser:
    """What a typical user meets beside what all requests meet, over the rollout.

    Attributes:
        value: a typical user's value on the candidate, in the metric's unit.
        control: on the control; None if it has none.
        requests: the candidate's value over all requests.
        requests_control: the control's.
        slices: slices of the candidate's users that count, in the stage with most.
        left_out: those that do not, because they have far more requests than is usual, where they have the most.
        left_share: share of the candidate's requests that they have there, 0..1.
        apart: whether ``requests`` is significantly far from ``value``.
        within: whether the typical user's value keeps the guardrail's limit; None if that cannot be told.
        requests_within: whether the value over all requests does.
    """

    value: float
    control: float | None
    requests: float
    requests_control: float | None
    slices: int
    left_out: int
    left_share: float
    apart: bool
    within: bool | None
    requests_within: bool | None

    @property
    def sides(self) -> bool:
        """Whether one of the two keeps the limit and the other does not."""
        return None not in (self.within, self.requests_within) and self.within is not self.requests_within

    @property
    def disagree(self) -> bool:
        """Whether the two say different things."""
        return self.apart or self.sides


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one guardrail, or on the emergency stop, and the numbers behind it.

    Attributes:
        metric: the guardrail's metric; ``error_rate`` for the emergency stop.
        kind: which limit it has: ``max``, ``max_increase``, ``min``, ``max_decrease`` or ``brake``, the emergency stop.
        verdict: what the evidence says.
        value: the candidate's value over the rollout, or since ``since``: a share in 0..1 or milliseconds, as the
            metric has it; None if there is none.
        limit: the last value allowed, in the same unit.
        control: the control's value, where the limit depends on it.
        n: how many of the candidate's requests the value is taken from.
        log_e_harm: natural logarithm of the e-value against "the limit is kept", the largest that it has been.
        log_e_healthy: the same against "the limit is not kept", as it is now: a step is only taken on present health.
        alpha_harm: harm is proven where the e-value is at least ``1 / alpha_harm``.
        alpha_healthy: the same for health.
        design_effect: by how much repeated requests of the same users are worth less than independent ones, at least 1.
        needed: about how many more requests of the candidate a verdict takes if its values stay as they are; None where
            there is a verdict, where not even 10,000 times the current stage's evidence would do (``leads`` is None,
            too), and where more requests of the same users would hardly tell more.
        leads: the verdict that the present values lead to; None where there is one, or where nothing would decide.
        returning: the part of the design effect that grows because the same users return, 0..1.
        trend: which way the candidate's value has moved in the current stage.
        latest: the candidate's value in the current stage alone.
        variance: of the value per request in the current stage, in its unit squared; 0 where it is not known.
        since: seconds before the decision since when harm was found, if the whole rollout's evidence does not show it.
        still: whether the evidence still shows harm that was proven, now or at an earlier look.
        within: whether the current stage's own value keeps the limit.
        others: whether the value leaves out each variant's busiest slices of users.
        heaviest: the largest share of either variant's requests in the current stage that one slice of users has, 0..1.
        thin: whether it is of a segment whose requests come from too few users to be judged.
        latest_n: the candidate's requests in the current stage.
        elapsed: seconds in which they were counted.
        guardrail: the one that was judged; None for the emergency stop.
        typical: what a typical user meets; None where that is not known, or not measured.
        on_harm: what harm does.
        set_aside: why the verdict does not count; None if it does.
    """

    metric: str
    kind: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    control: float | None = None
    n: int = 0
    log_e_harm: float = 0.0
    log_e_healthy: float = 0.0
    alpha_harm: float = 0.0
    alpha_healthy: float = 0.0
    design_effect: float = 1.0
    needed: int | None = None
    since: float | None = None
    still: bool = True
    within: bool = True
    others: bool = False
    heaviest: float = 0.0
    thin: bool = False
    latest_n: float = 0.0
    elapsed: float = 0.0
    leads: Verdict | None = None
    returning: float = 0.0
    trend: Trend = Trend.UNKNOWN
    latest: float | None = None
    variance: float = 0.0
    guardrail: Guardrail | None = None
    typical: TypicalUser | None = None
    on_harm: OnHarm = OnHarm.ROLLBACK
    set_aside: SetAside | None = None

    @property
    def acts(self) -> bool:
        """Whether it found harm that rolls back or pauses."""
        return self.verdict is Verdict.HARMFUL and self.on_harm is not OnHarm.REPORT and self.set_aside is None

    @property
    def healthy(self) -> bool:
        """Whether health is proven over all stages, which the current one alone may still contradict."""
        return self.p_healthy <= self.alpha_healthy

    @property
    def repeats(self) -> bool:
        """Whether most requests come from users who were there before."""
        return self.returning >= 0.5

    @property
    def stuck(self) -> bool:
        """Whether more requests like these would hardly decide: the value is at its limit, or the same users return."""
        if self.verdict is not Verdict.INCONCLUSIVE or self.healthy or self.needed is not None:
            return False
        return self.repeats if self.leads is not None else self.log_e_healthy != 0

    @property
    def p_harm(self) -> float:
        """The always-valid p-value of "the limit is kept"."""
        return always_valid_p(self.log_e_harm)

    @property
    def p_healthy(self) -> float:
        """The always-valid p-value of "the limit is not kept"."""
        return always_valid_p(self.log_e_healthy)


@dataclass(frozen=True, slots=True)
class GoalJudgement:
    """A verdict on the primary goal, or on a secondary one, which decides nothing.

    Attributes:
        metric: the goal's metric.
        verdict: what the evidence says.
        value: the candidate's value; None if there is none.
        control: the control's.
        n: the candidate's requests.
        log_e_better: natural logarithm of the e-value against "the candidate is not better", the largest that it has
            been.
        log_e_worse: the same against "it is not worse".
        log_e_small: the same against "it is better by at least ``min_effect``"; 0 without one, and at planned looks.
        z: standardised difference, positive where the candidate is better; None where it cannot be computed.
        boundary: how far ``z`` must be from 0 on its side at this look, in a group-sequential design at a planned look.
        fraction: share of the planned requests that is there; None without a plan.
        looks: how many planned looks have been taken.
        look_z: the standardised difference at the last of them; None without one.
        adjusted: always-valid two-sided p-value, corrected for all goals by Holm's method; None with one goal.
        set_aside: why a worse candidate is not rolled back for it now, and nothing is remembered; None otherwise.
    """

    metric: str
    verdict: GoalVerdict
    value: float | None = None
    control: float | None = None
    n: int = 0
    log_e_better: float = 0.0
    log_e_worse: float = 0.0
    log_e_small: float = 0.0
    z: float | None = None
    boundary: float | None = None
    fraction: float | None = None
    looks: int = 0
    look_z: float | None = None
    adjusted: float | None = None
    set_aside: SetAside | None = None

    @property
    def p(self) -> float:
        """The always-valid p-value of "the two are alike", on both sides, for this goal alone."""
        return always_valid_p(max(self.log_e_better, self.log_e_worse) - math.log(2))


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether requests are split as the weights promise.

    Attributes:
        alarm: whether they are significantly not, now or at an earlier look.
        p: always-valid p-value of "they are".
        dispersion: variance over mean of the slices' requests, at least 1.
        log_e: natural logarithm of the e-value against "they are", the largest that it has been.
        now: whether the evidence shows the mismatch now.
        seen: share of the current stage's requests by variant, 0..1; only where there is an alarm.
        promised: the same by weight.
    """

    alarm: bool = False
    p: float = 1.0
    dispersion: float = 1.0
    log_e: float = 0.0
    now: bool = False
    seen: Mapping[str, float] = field(default_factory=dict)
    promised: Mapping[str, float] = field(default_factory=dict)


AS_PROMISED = SampleRatio()
"""What is known of a split before there is evidence."""


@dataclass(frozen=True, slots=True)
class Paradox:
    """Simpson's paradox: a metric that compares one way in every part and the other way over all of them.

    Attributes:
        metric: its name.
        parts: ``stages`` or ``segments``.
    """

    metric: str
    parts: str
