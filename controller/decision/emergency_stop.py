"""The emergency stop: a candidate that fails outright, whatever the guardrails say. Pure.

HARMFUL where the candidate's error rate is significantly above ``emergency_stop`` *and* significantly above the
control's, so that an outage behind both is not blamed on the candidate; above ``emergency_stop`` alone where the
control has no requests, or no users any more: what it did at another time says nothing about now. A candidate that
stays below ``emergency_stop`` is rolled back by mistake with at most the same probability in either way, since both ask
for proof that it is above, by the same e-process. The hypothesis to be rejected is "one of the two does not hold", for
which the smaller of the two e-values is one: whichever part is true, its own e-value is at least as large. It looks
back to every checkpoint, as guardrails do.

Half of the weight is on everybody but the busiest users, as with guardrails; see :mod:`controller.decision.views`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from abmesh.experiment.metrics import ERROR_RATE
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Side
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from controller.decision.verdicts import Judgement, Verdict
from controller.decision.views import Shown, Views

KIND = "brake"
"""The kind of its judgement, as journals and metrics have spelled it from the first version on."""


def hypothesis(rollout: Rollout) -> str:
    """Name of what its e-value speaks against, for :class:`~controller.decision.history.History`."""
    return f"emergency_stop {rollout.analysis.emergency_stop:g}"


def judge_emergency_stop(rollout: Rollout, evidence: RolloutEvidence, peak: float = -math.inf) -> Judgement | None:
    """Its verdict, if it is harm; None otherwise, since it never says that all is well.

    Args:
        rollout: the plan.
        evidence: what was counted.
        peak: the largest logarithm that the e-value has had at earlier looks.
    """
    limit = rollout.analysis.emergency_stop
    if limit >= 1:
        return None
    if not evidence.present.weights.get(evidence.control):
        evidence = evidence.without_control()
    views = Views.of(lambda view: ShareComparison.of(view, ERROR_RATE), evidence, ERROR_RATE)
    found, alpha = views.whole, rollout.alpha_alarm
    if found.values.candidate is None:
        return None

    def log_e_of(view: ShareComparison) -> tuple[float, int]:
        # A control with requests, but none outside its busiest slices, cannot be compared with.
        comparable = view.values.control_n > 0 or not found.values.control_n
        return _log_e(view, evidence, limit) if comparable else (0.0, 0)

    log_e, shown = views.mixed(log_e_of, -math.log(alpha))
    still = log_e >= -math.log(alpha)
    log_e = max(log_e, peak)
    if log_e < -math.log(alpha):
        return None
    if not still:
        shown = Shown(found, 0, others=False)
    values = shown.view.values
    judgement = Judgement(
        metric=ERROR_RATE.name,
        kind=KIND,
        verdict=Verdict.HARMFUL,
        value=values.candidate,
        limit=limit,
        control=values.control,
        n=round(values.n),
        log_e_harm=log_e,
        alpha_harm=alpha,
        alpha_healthy=rollout.analysis.alpha,
        design_effect=values.design_effect,
        still=still,
        others=shown.others,
        heaviest=evidence.heaviest,
    )
    if shown.row:
        value, n = shown.view.moment(shown.row)
        judgement = replace(judgement, value=value, n=n, since=evidence.look_back.seconds_since(shown.row))
    return judgement


def _log_e(found: ShareComparison, evidence: RolloutEvidence, limit: float) -> tuple[float, int]:
    """Against "at most the limit, or no more than the control", and the row that says most; 0 of no requests."""
    if found.values.candidate is None:
        return 0.0, 0
    log_e, row = evidence.look_back.mixed(found.level(Side.GREATER, limit))
    if found.values.control_n > 0:
        # From 1 to 1, so that the comparison is scale-free and knows no margin.
        against, row_against = evidence.look_back.mixed(found.increase(Side.GREATER, 0.0, relative=True))
        if against < log_e:
            log_e, row = against, row or row_against
    return log_e, row
