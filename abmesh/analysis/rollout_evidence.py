"""A rollout's evidence as a report compares it, and what to report. Pure.

Called by :mod:`abmesh.analysis.rollout_report` and :mod:`abmesh.analysis.rollout_segments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from abmesh.experiment.metrics import ERROR_RATE, Metric
from abmesh.experiment.model import Experiment
from abmesh.inference.histogram import merge, quantile
from controller.decision.comparison import Comparison
from controller.decision.comparisons import compare
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import Method, ShareComparison
from controller.decision.users import UserComparison
from controller.evidence.strata import Stratum
from controller.evidence.summary import VariantEvidence

_NOBODY = ""
"""The name of a control without evidence, for a variant that is looked at alone."""


@dataclass(frozen=True, slots=True)
class RolloutQuestion:
    """What to report of a rollout.

    Attributes:
        name: the experiment's.
        control: its control.
        slices: how many slices each variant's users are cut into.
        alpha: 0..1, of each metric's comparisons.
        split_alpha: 0..1, of the sample-ratio check.
        tuned_for: the candidate's requests at which the decision's e-values are largest.
        tuned_alpha: the decision's alpha, which they are tuned for; another alpha of the report changes no evidence.
        planned: the candidate's requests that a goal's e-values are tuned for instead, by metric.
        judged: metrics that a guardrail, a goal or the emergency stop is judged on.
        goals: metrics of the goals, the primary one first.
    """

    name: str
    control: str
    slices: int
    alpha: float
    split_alpha: float
    tuned_for: float
    tuned_alpha: float
    planned: Mapping[str, float] = field(default_factory=dict)
    judged: frozenset[str] = frozenset()
    goals: tuple[str, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, alpha: float | None = None) -> Self:
        """What the document says.

        Args:
            experiment: with a rollout.
            alpha: of the report; the document's unless given.
        """
        rollout = experiment.rollout
        assert rollout is not None
        guarded = {guardrail.metric for guardrail in rollout.guardrails if guardrail.segment is None}
        judged = guarded | {goal.metric for goal in rollout.goals}
        planned = {
            goal.metric: float(goal.planned_requests)
            for goal in rollout.goals
            if goal.planned_requests is not None and goal.metric not in guarded
        }
        return cls(
            name=experiment.name,
            control=experiment.control.name,
            slices=experiment.slices,
            alpha=rollout.analysis.alpha if alpha is None else alpha,
            split_alpha=rollout.analysis.sample_ratio_alpha,
            tuned_for=rollout.tuned_for,
            tuned_alpha=rollout.analysis.alpha,
            planned=planned,
            judged=frozenset(judged | {ERROR_RATE.name} if rollout.analysis.emergency_stop < 1 else judged),
            goals=tuple(goal.metric for goal in rollout.goals),
        )

    def compare(self, metric: Metric, evidence: RolloutEvidence) -> Comparison:
        """The decision's comparison of a metric, without the slices of users that dominate.

        A rate that nothing decides on is tested by bets, which find differences of rare and of frequent events.
        """
        view, planned = evidence.kept(metric), self.planned.get(metric.name)
        if planned is not None:  # A goal has half of alpha on each side.
            return compare(metric, view, planned, self.tuned_alpha / 2, planned=True)
        found = compare(metric, view, self.tuned_for, self.tuned_alpha)
        if isinstance(found, ShareComparison) and metric.name not in self.judged:
            return replace(found, method=Method.BETS)
        return found

    def compare_users(self, metric: Metric, evidence: RolloutEvidence) -> UserComparison:
        """What typical users meet, tuned as :meth:`compare`."""
        return UserComparison.of(evidence, metric, self.planned.get(metric.name, self.tuned_for), self.tuned_alpha)

    def rollout_evidence(self, strata: Sequence[Stratum], variant: str, *, alone: bool = False) -> RolloutEvidence:
        """Evidence of a variant and the control as decisions read it; alone, without the control's."""
        return RolloutEvidence(
            candidate=variant, control=_NOBODY if alone else self.control, slices=self.slices, strata=strata
        )


@dataclass(frozen=True, slots=True)
class ReportedEvidence:
    """One variant's evidence, laid out once for all metrics.

    A quantile that no guardrail and no goal compares has no latency that was chosen before the data. It is compared at
    the control's own quantile in each stage, which is only roughly valid.

    Attributes:
        own: the stages in which the variant had users; None if there are none.
        both: those in which the control had users as well; requests of a variant without weight are strays.
        unchosen: metrics that are compared at latencies of the same stage.
    """

    own: RolloutEvidence | None
    both: RolloutEvidence | None
    unchosen: frozenset[str] = frozenset()

    @classmethod
    def of(cls, strata: Sequence[Stratum], question: RolloutQuestion, variant: str, measured: Sequence[Metric]) -> Self:
        """The evidence of a variant, which may be the control."""
        own = [stratum for stratum in strata if stratum.weights.get(variant, 0) > 0]
        if variant == question.control:
            return cls(question.rollout_evidence(own, variant, alone=True) if own else None, None)
        shared = [stratum for stratum in own if stratum.weights.get(question.control, 0) > 0]
        unchosen = [
            metric
            for metric in measured
            if metric.quantile is not None and not any(stratum.edges.get(metric.name) for stratum in shared)
        ]
        with_edges = [with_own_edges(stratum, unchosen, question.control) for stratum in shared]
        both = question.rollout_evidence(with_edges, variant) if shared else None
        alone = question.rollout_evidence(own, variant) if own else None
        return cls(
            own=both if len(shared) == len(own) else alone,
            both=both,
            unchosen=frozenset(metric.name for metric in unchosen),
        )

    def method(self, metric: Metric) -> str:
        """How a metric is compared, in words."""
        if metric.share:
            return "exact test of event counts, divided by their design effect, since users repeat"
        if metric.quantile is None:
            return "confidence sequence of the mean, with the variance between slices of users"
        method = "count of slower requests, divided by their design effect, at the control's quantile"
        if metric.name in self.unchosen:
            return f"{method} in the same stage, so only roughly valid"
        strata = [] if self.both is None else self.both.strata
        without = sum(not stratum.edges.get(metric.name) for stratum in strata)
        if not without:
            return method
        return f"{method}; {without} of {len(strata)} stages had none and are left out, as in decisions"


def with_own_edges(stratum: Stratum, unchosen: Sequence[Metric], control: str) -> Stratum:
    """A stage whose quantiles are compared at the control's own, not at bounds of bins, which are up to 10% off."""
    evidence = stratum.variants.get(control, VariantEvidence())
    edges = dict(stratum.edges)
    for metric in unchosen:
        assert metric.quantile is not None
        value = quantile(merge(evidence.histograms(metric.histogram).values()), metric.quantile)
        if value is not None:
            edges[metric.name] = (value,)
    return replace(stratum, edges=edges)
