"""Which comparison belongs to a metric. Pure."""

from __future__ import annotations

from controller.judging.comparison import Comparison
from controller.judging.course import Course
from controller.judging.means import MeanComparison
from controller.judging.quantiles import QuantileComparison
from controller.judging.shares import ShareComparison
from experiment.metrics import Metric


def compare(metric: Metric, course: Course, tuned_for: float, alpha: float) -> Comparison:
    """The comparison of a metric.

    Args:
        metric: what is compared.
        course: the evidence.
        tuned_for: the candidate's requests at which a mean's e-value is to be largest.
        alpha: of the decision that is wanted then.
    """
    if metric.quantile is not None:
        return QuantileComparison.of(course, metric)
    if metric.share:
        return ShareComparison.of(course, metric)
    return MeanComparison.of(course, metric, tuned_for, alpha)
