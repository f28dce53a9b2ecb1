"""What a verdict is, however it was reached. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from abmesh.inference.numbers import always_valid_p
from controller.evidence.summary import rounded


class Verdict(StrEnum):
    """What the evidence says about a guardrail.

    HEALTHY lets a rollout go on, HARMFUL rolls it back, INCONCLUSIVE and ERROR hold it: there is too little evidence,
    or none that could be judged.
    """

    HEALTHY = "healthy"
    HARMFUL = "harmful"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class GoalVerdict(StrEnum):
    """What the evidence says about the goal.

    WINNER and LOSER: the candidate is proven better, or worse. NO_DIFFERENCE: a difference worth having is ruled out.
    INCONCLUSIVE: the planned size is reached without any of these. OPEN: more requests may still decide.
    """

    WINNER = "winner"
    LOSER = "loser"
    NO_DIFFERENCE = "no_difference"
    INCONCLUSIVE = "inconclusive"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one guardrail, or on the brake, and the numbers behind it.

    Attributes:
        metric: the guardrail's metric; ``error_rate`` for the brake.
        kind: which limit it has: ``max``, ``max_increase`` or ``brake``.
        verdict: what the evidence says.
        text: one sentence with the numbers, without a full stop.
        value: the candidate's value over the rollout, or since ``since``: a share in 0..1 or milliseconds, as the
            metric has it; None if there is none.
        limit: the highest value allowed, in the same unit.
        control: the control's value, where the limit depends on it.
        n: how many of the candidate's requests the value is taken from.
        log_e_harm: natural logarithm of the e-value against "the limit is kept", the largest that it has been.
        log_e_healthy: the same against "the limit is not kept", as it is now: a step is taken on what is healthy now.
        alpha_harm: harm is proven where the e-value is at least ``1 / alpha_harm``.
        alpha_healthy: the same for health.
        design_effect: by how much users who repeat make requests worth less than independent ones, at least 1.
        needed: about how many more requests of the candidate it takes to tell; None where that is known, or cannot be
            said.
        since: seconds before the decision since when harm was found, if the whole rollout's evidence does not show it.
    """

    metric: str
    kind: str
    verdict: Verdict
    text: str
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

    @property
    def p_harm(self) -> float:
        """The always-valid p-value of "the limit is kept"."""
        return always_valid_p(self.log_e_harm)

    @property
    def p_healthy(self) -> float:
        """The always-valid p-value of "the limit is not kept"."""
        return always_valid_p(self.log_e_healthy)

    def outline(self) -> dict[str, Any]:
        """The judgement as the journal keeps it."""
        return _outline(asdict(self))


@dataclass(frozen=True, slots=True)
class GoalJudgement:
    """A verdict on the goal.

    Attributes:
        metric: the goal's metric.
        verdict: what the evidence says.
        text: one sentence with the numbers, without a full stop.
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
    """

    metric: str
    verdict: GoalVerdict
    text: str
    value: float | None = None
    control: float | None = None
    n: int = 0
    log_e_better: float = 0.0
    log_e_worse: float = 0.0
    log_e_small: float = 0.0
    z: float | None = None
    boundary: float | None = None
    fraction: float | None = None

    def outline(self) -> dict[str, Any]:
        """The judgement as the journal keeps it."""
        return _outline(asdict(self))


@dataclass(frozen=True, slots=True)
class Balance:
    """Whether requests were split as the weights say.

    Attributes:
        alarm: they surely were not.
        text: one sentence with the numbers, without a full stop.
        p: always-valid p-value of "they were".
        dispersion: variance over mean of the slices' requests, at least 1.
        log_e: natural logarithm of the e-value against "they were", the largest that it has been.
    """

    alarm: bool = False
    text: str = ""
    p: float = 1.0
    dispersion: float = 1.0
    log_e: float = 0.0

    def outline(self) -> dict[str, Any]:
        """The finding as the journal keeps it."""
        return _outline(asdict(self))


BALANCED = Balance()
"""What is said of a split before there is evidence."""


def _outline(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON: numbers to six digits, and none where a logarithm is not finite but a large number."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else math.copysign(1e300, value)
    return value
