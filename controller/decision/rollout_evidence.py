"""What a rollout is judged on: the candidate's and the control's evidence, stage by stage. Pure.

Put together by :mod:`controller.decision.decide` for verdicts, and by :mod:`abmesh.analysis` for reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache

from abmesh.experiment.metrics import Metric
from abmesh.experiment.names import GROUPS
from controller.decision.history import Evidence, edges_of
from controller.decision.latencies import LatencyTables
from controller.decision.look_back import NO_LOOK_BACK, LookBack, difference
from controller.decision.slice_rows import Arm, LeftOut, SliceRows, busiest, metric_rows
from controller.evidence.identity import ById
from controller.evidence.strata import Stratum, request_counts
from controller.evidence.summary import VariantEvidence

_NOTHING = VariantEvidence()
_NOBODY = ""


@dataclass(frozen=True, slots=True)
class RolloutEvidence:
    """Everything that a rollout is judged on.

    Attributes:
        candidate: its name.
        control: its name.
        slices: of the experiment.
        strata: one a stage, the current one last; at least one.
        look_back: the current stage's evidence since each checkpoint.
        elapsed: how long the current stage's evidence has been collected.
        left_out: slices that are not looked at; None where all are.
        latencies: both variants' histograms, laid out for many limits when they are first asked for; without the groups
            of slices that are not looked at.
    """

    candidate: str
    control: str
    slices: int
    strata: Sequence[Stratum]
    look_back: LookBack = NO_LOOK_BACK
    elapsed: timedelta = timedelta()
    left_out: LeftOut | None = None
    latencies: LatencyTables = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        before = tuple(item.before for item in self.look_back.increments)
        tables = LatencyTables(self.arms(), before, self.control, self.candidate)
        object.__setattr__(self, "latencies", tables)

    @property
    def present(self) -> Stratum:
        """The current stage."""
        return self.strata[-1]

    def arms(self) -> list[tuple[VariantEvidence, VariantEvidence]]:
        """The control's and the candidate's evidence in each stratum."""
        return [
            (stratum.variants.get(self.control, _NOTHING), stratum.variants.get(self.candidate, _NOTHING))
            for stratum in self.strata
        ]

    def without_control(self) -> RolloutEvidence:
        """The candidate's evidence alone, for what is judged while the control has no users."""
        candidate = self.candidate
        strata = [
            replace(item, variants={candidate: item.variants[candidate]} if candidate in item.variants else {})
            for item in self.strata
        ]
        return replace(self, strata=strata)

    def in_segment(self, name: str) -> RolloutEvidence:
        """The same rollout as if only the users of one segment existed, with groups of slices as its slices.

        Its edges are those that were chosen for the segment, under :func:`~controller.decision.history.edge_name`.
        """
        strata = [
            Stratum(item.weights, _in_segment(ById(item.variants), name), edges_of(item.edges, name))
            for item in self.strata
        ]
        now = strata[-1].variants
        increments = []
        for item in self.look_back.increments:
            then = _in_segment(ById(item.before), name)
            b, a = (difference(now.get(arm), then.get(arm)) for arm in (self.candidate, self.control))
            increments.append(replace(item, candidate=b, control=a, before=then))
        return replace(
            self, slices=GROUPS, strata=strata, look_back=LookBack(tuple(increments), self.look_back.skipped)
        )

    def control_alone(self) -> RolloutEvidence:
        """The control in the candidate's place, and nobody to compare it with, to judge it as a candidate would be."""
        increments = tuple(
            replace(item, candidate=item.control, control=_NOTHING) for item in self.look_back.increments
        )
        look_back = replace(self.look_back, increments=increments)
        return replace(self, candidate=self.control, control=_NOBODY, look_back=look_back)

    def without_rows(self, rows: frozenset[int]) -> RolloutEvidence:
        """The same evidence; no e-value that looks back takes anything from these rows."""
        return replace(self, look_back=replace(self.look_back, skipped=rows))

    def without_dominant(self) -> RolloutEvidence:
        """The same without the slices of each variant that dominate; see :mod:`abmesh.inference.busiest`.

        In each stage, and of what the current one has counted since each checkpoint, by the requests of that span.
        """
        return self._view(0)

    def without_busiest(self) -> RolloutEvidence:
        """The same, and without the busiest slice of each variant in any case."""
        return self._view(1)

    def kept(self, metric: Metric) -> RolloutEvidence:
        """What a metric is shown and judged healthy by: without the slices that dominate, if any do."""
        return self.without_dominant() if self.uneven(metric) else self

    def uneven(self, metric: Metric) -> bool:
        """Whether a metric's evidence has slices that dominate."""
        if metric.quantile is not None:
            return self.latencies.uneven(metric.histogram)
        a, b = self._histories()
        return busiest(a, b, self.slices).any

    @property
    def heaviest(self) -> float:
        """The largest share of either variant's requests in the current stage that one slice has, 0..1."""
        counts = [request_counts(arm, self.slices) for arm in self.arms()[-1]]
        return max(float(n.max() / n.sum()) if n.any() else 0.0 for n in counts)

    def rows(self, metric: Metric) -> SliceRows:
        """A ratio metric in every slice that is not left out."""
        return metric_rows(*self._histories(), self.slices, metric).without(self.left_out)

    def _view(self, leave: int) -> RolloutEvidence:
        a, b = self._histories()
        found = replace(self, left_out=busiest(a, b, self.slices, least=leave))
        object.__setattr__(found, "latencies", self.latencies.without_dominant(least=leave))
        return found

    def _histories(self) -> tuple[Arm, Arm]:
        """The control's and the candidate's evidence in each stratum and at each checkpoint."""
        arms, before = self.arms(), [item.before for item in self.look_back.increments]
        return (
            ([a for a, _ in arms], [then.get(self.control, _NOTHING) for then in before]),
            ([b for _, b in arms], [then.get(self.candidate, _NOTHING) for then in before]),
        )


@lru_cache(maxsize=512)
def _in_segment(evidence: ById[Evidence], name: str) -> Evidence:
    """The same object for the same evidence, so that work on it is cached."""
    return {variant: item.in_segment(name) for variant, item in evidence.value.items()}
