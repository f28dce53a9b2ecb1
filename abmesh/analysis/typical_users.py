"""What typical users meet, as ``abmesh explain`` and reports show it beside what all requests meet. Pure.

Called by :mod:`abmesh.analysis.explanation` and :mod:`abmesh.analysis.rollout_report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from abmesh.analysis.always_valid import VALID, finding_of, value_of
from abmesh.analysis.layout import number
from abmesh.analysis.records import Finding, MetricReport, TypicalValue
from abmesh.analysis.rollout_evidence import RolloutQuestion
from abmesh.experiment.metrics import Metric
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Interval
from controller.decision.comparison import MIN_SLICES, StratifiedSums
from controller.decision.intervals import level_interval
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.typical_user import apart
from controller.decision.users import UserComparison
from controller.decision.verdicts import Judgement
from controller.wording.users import left_out_text, typical_text
from controller.wording.values import show_value

PER_USER: Final = f"{VALID}, per user"

METHOD: Final = (
    "confidence sequence of what typical users meet: slices of users weigh at most as the median slice, and those with "
    "far more requests than is usual are left out"
)


@dataclass(frozen=True, slots=True)
class ExplainedUser:
    """What a typical user of the candidate meets.

    Attributes:
        text: as a sentence, with the value over all requests.
        interval: always-valid limits of the value, each at half of alpha, in the metric's unit.
    """

    text: str
    interval: Interval


def explained_user(judgement: Judgement, rollout: Rollout, evidence: RolloutEvidence) -> ExplainedUser | None:
    """What was found about users beside a guardrail's judgement; None where that is not known."""
    guardrail, found = judgement.guardrail, judgement.typical
    if guardrail is None or found is None:
        return None
    metric, alpha = guardrail.measured, rollout.analysis.alpha
    compared = UserComparison.of(evidence, metric, rollout.tuned_for, alpha)
    interval = level_interval(compared, alpha / 2, share=metric.share, lowest=-1.0 if metric.signed else 0.0)
    limits = f"{_bound(metric, interval.lower)} to {_bound(metric, interval.upper)}"
    return ExplainedUser(typical_text(found, metric, limits), interval)


def typical_value(metric: Metric, question: RolloutQuestion, evidence: RolloutEvidence) -> TypicalValue | None:
    """A variant's own value per user; None where a metric is not measured so, or too few slices have requests."""
    if not metric.by_user:
        return None
    found = question.compare_users(metric, evidence)
    requests = StratifiedSums.of(evidence, metric).values(1.0).candidate
    if found.slices < MIN_SLICES or found.values.candidate is None or requests is None:
        return None
    value = value_of(found, question.alpha, share=metric.share, lowest=-1.0 if metric.signed else 0.0)
    far = apart(found, requests, question.alpha)
    return TypicalValue(value, found.slices, found.left_out, found.left_share, requests, far)


def user_findings(metric: Metric, question: RolloutQuestion, evidence: RolloutEvidence | None) -> tuple[Finding, ...]:
    """A variant against the control per user; none where a metric is not measured so."""
    if evidence is None or not metric.by_user:
        return ()
    found = finding_of(question.compare_users(metric, evidence), question.alpha, METHOD, share=metric.share)
    return (replace(found, valid=PER_USER),)


def disagreements(reports: Sequence[MetricReport]) -> list[str]:
    """A sentence for each variant and metric whose two values are apart."""
    found = []
    for report in reports:
        for row in report.variants:
            if row.typical is None or not row.typical.apart:
                continue
            user, requests = row.typical.value.value, row.typical.requests
            unit = report.metric.unit
            values = f"{number(user, unit)}, significantly apart from {number(requests, unit)} over all requests"
            busy = left_out_text(row.typical.left_out, row.typical.left_share)
            why = f": {busy}" if row.typical.left_out else ""
            found.append(f"{report.metric.name}: a typical user of {row.variant} has {values}{why}")
    return found


def _bound(metric: Metric, value: float) -> str:
    return "no limit" if math.isinf(value) else show_value(metric, value)
