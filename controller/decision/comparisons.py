"""Which comparison a metric gets. Pure; called by guardrails, goals and reports."""

from __future__ import annotations

from abmesh.experiment.metrics import Metric
from controller.decision.comparison import Comparison
from controller.decision.course import Course
from controller.decision.means import MeanComparison
from controller.decision.quantiles import QuantileComparison
from controller.decision.shares import ShareComparison


def compare(metric: Metric, course: Course, tuned_for: float, alpha: float) -> Comparison:
    """The comparison of a metric.

    Args:
        metric: to compare.
        course: the evidence.
        tuned_for: the candidate's requests at which a mean's e-value should be largest.
        alpha: of the decision that is wanted there.
    """
    if metric.quantile is not None:
        return QuantileComparison.of(course, metric)
    if metric.share:
        return ShareComparison.of(course, metric)
    return MeanComparison.of(course, metric, tuned_for, alpha)
