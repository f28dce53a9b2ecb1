"""What a typical user meets beside what all requests meet, and whether the two disagree. Pure.

Called by :mod:`controller.decision.decide` for every guardrail, whichever of the two it is judged by, and by
:mod:`abmesh.analysis`. It decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Side
from controller.decision.comparison import MIN_SLICES, StratifiedSums, Values
from controller.decision.guardrails import keeps, limit_of
from controller.decision.look_back import NO_LOOK_BACK
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.users import UserComparison
from controller.decision.verdicts import TypicalUser


def beside(guardrail: Guardrail, rollout: Rollout, evidence: RolloutEvidence) -> TypicalUser | None:
    """Both values of a guardrail's metric.

    Args:
        guardrail: of the rollout.
        rollout: the plan.
        evidence: what was counted.

    Returns:
        None for a metric that is not measured by user, for a segment, whose users are told apart by groups only, and
        before there are enough slices with requests to tell.
    """
    metric, alpha = guardrail.measured, rollout.analysis.alpha
    if not metric.by_user or guardrail.segment is not None:
        return None
    evidence = replace(evidence, look_back=NO_LOOK_BACK)
    found = UserComparison.of(evidence, metric, rollout.tuned_for, alpha)
    users, requests = found.values, StratifiedSums.of(evidence, metric).values(1.0)
    if users.candidate is None or requests.candidate is None or found.slices < MIN_SLICES:
        return None
    return TypicalUser(
        value=users.candidate,
        control=users.control,
        requests=requests.candidate,
        requests_control=requests.control,
        slices=found.slices,
        left_out=found.left_out,
        left_share=found.left_share,
        apart=apart(found, requests.candidate, alpha),
        within=_keeps(guardrail, users),
        requests_within=_keeps(guardrail, requests),
    )


def apart(found: UserComparison, requests: float, alpha: float) -> bool:
    """Whether the value over all requests is outside of the interval of a typical user's, at any look.

    The requests of ordinary users make up both values, which therefore differ far less than that by chance.

    Args:
        found: what a typical user meets.
        requests: the value over all requests.
        alpha: of both limits of the interval together.
    """
    value = found.values.candidate
    if value is not None and math.isclose(value, requests, rel_tol=1e-9):
        return False  # Rounding, which is far where all requests are alike.
    return any(float(found.level(side, requests)[0]) >= -math.log(alpha / 2) for side in (Side.GREATER, Side.LESS))


def _keeps(guardrail: Guardrail, values: Values) -> bool | None:
    """Whether the candidate's value keeps the limit; None if there is none."""
    if values.candidate is None or (guardrail.compares and values.control is None):
        return None
    return keeps(guardrail, values.candidate, limit_of(guardrail, values.control))
