"""What a rollout is judged on: the candidate's and the control's evidence, stage by stage. Pure.

Put together by :mod:`controller.decision.decide` for verdicts, and by :mod:`abmesh.analysis` for reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from controller.decision.latencies import LatencyTables
from controller.decision.look_back import NO_LOOK_BACK, LookBack
from controller.evidence.strata import Stratum
from controller.evidence.summary import FIRST_ERROR, VariantEvidence

_NOTHING = VariantEvidence()


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
        latencies: both variants' histograms, laid out for many limits when they are first asked for.
    """

    candidate: str
    control: str
    slices: int
    strata: Sequence[Stratum]
    look_back: LookBack = NO_LOOK_BACK
    elapsed: timedelta = timedelta()
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

    def without_busiest(self) -> RolloutEvidence:
        """Requests and errors without the slice of each variant that sent most, in each stage; without look-back.

        Which slice that is depends on requests alone, so it says nothing about errors.
        """
        strata = [
            replace(stratum, variants={name: _without_busiest(item) for name, item in stratum.variants.items()})
            for stratum in self.strata
        ]
        return replace(self, strata=strata, look_back=NO_LOOK_BACK)


def _without_busiest(evidence: VariantEvidence) -> VariantEvidence:
    if not evidence.slices:
        return evidence
    busiest = max(evidence.slices, key=lambda number: (evidence.slices[number].requests, number))
    slices = {number: item for number, item in evidence.slices.items() if number != busiest}
    requests, errors = (sum(getattr(item, what) for item in slices.values()) for what in ("requests", "errors"))
    return VariantEvidence(codes={200: requests - errors, FIRST_ERROR: errors}, slices=slices)
