"""Which comparison a metric gets. Pure; called by guardrails, goals and reports."""

from __future__ import annotations

from abmesh.experiment.metrics import Metric
from controller.decision.comparison import Comparison
from controller.decision.means import MeanComparison
from controller.decision.quantiles import QuantileComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from controller.decision.users import UserComparison


def compare(
    metric: Metric,
    evidence: RolloutEvidence,
    tuned_for: float,
    alpha: float,
    *,
    planned: bool = False,
    by_user: bool = False,
) -> Comparison:
    """The comparison of a metric.

    Args:
        metric: what is compared.
        evidence: what was counted.
        tuned_for: the candidate's requests at which a mean's e-value is to be largest.
        alpha: of the one-sided decision that is wanted then.
        planned: whether ``tuned_for`` is a size at which the decision is planned.
        by_user: whether users count alike instead of requests.
    """
    if by_user:
        return UserComparison.of(evidence, metric, tuned_for, alpha)
    if metric.quantile is not None:
        return QuantileComparison.of(evidence, metric)
    if metric.share:
        return ShareComparison.of(evidence, metric, planned=tuned_for if planned else None, alpha=alpha)
    return MeanComparison.of(evidence, metric, tuned_for, alpha)
