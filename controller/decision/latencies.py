"""Latency tables: both variants' histograms by stratum and since each checkpoint, laid out for many limits. Pure.

What was counted since a checkpoint is today's count above a limit less the count at the checkpoint, so nothing has to
be subtracted bin by bin. Earlier stages and checkpoints never change and are laid out once.

Used by :mod:`controller.decision.quantiles`, by way of :class:`~controller.decision.rollout_evidence.RolloutEvidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from abmesh.experiment.metrics import Histogram
from abmesh.inference.cumulative import Cumulative
from abmesh.inference.histogram import Bins, merge
from abmesh.inference.numbers import Floats
from controller.decision.history import Evidence
from controller.evidence.identity import ById
from controller.evidence.summary import VariantEvidence


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """One variant's durations, or times to the first token.

    Attributes:
        groups: by group of slices, one a stratum.
        before: what the current stage had counted, one row for each checkpoint.
        whole: all strata and groups as one.
    """

    groups: tuple[Cumulative, ...]
    before: Cumulative
    whole: Cumulative

    @classmethod
    def of(
        cls,
        strata: Sequence[VariantEvidence],
        checkpoints: Sequence[Evidence],
        name: str,
        histogram: Histogram = "duration",
    ) -> LatencyTable:
        """Of a variant's evidence in each stratum, and of the current one's at each checkpoint."""
        past = tuple(_past(ById(item), histogram) for item in strata[:-1])
        present = Cumulative.of(list(strata[-1].histograms(histogram).values()))
        whole = Cumulative.of([merge(bins for item in strata for bins in item.histograms(histogram).values())])
        return cls((*past, present), _at_checkpoints(tuple(map(ById, checkpoints)), name, histogram), whole)

    @property
    def without_look_back(self) -> LatencyTable:
        """All evidence only."""
        return replace(self, before=_at_checkpoints((), "", "duration"))

    def above(self, limits: Floats) -> Floats:
        """Requests above each stratum's limit, shape (1 + checkpoints, strata); 0 where a limit is not a number."""
        known = ~np.isnan(limits)
        at = np.where(known, limits, 0.0)
        rows = np.zeros((1 + len(self.before.sizes), len(self.groups)))
        rows[0] = [groups.exceeding(limit).sum() for groups, limit in zip(self.groups, at, strict=True)]
        rows[1:, -1] = np.maximum(rows[0, -1] - self.before.exceeding(at[-1]), 0.0)
        return np.where(known, rows, 0.0)

    def sizes(self) -> Floats:
        """Requests, shape (1 + checkpoints, strata)."""
        rows = np.zeros((1 + len(self.before.sizes), len(self.groups)))
        rows[0] = [groups.sizes.sum() for groups in self.groups]
        rows[1:, -1] = np.maximum(rows[0, -1] - self.before.sizes, 0.0)
        return rows


class LatencyTables:
    """The tables of the control and of the candidate, each histogram laid out when it is first asked for.

    Args:
        arms: the control's and the candidate's evidence in each stratum.
        checkpoints: what the current stage had counted at each checkpoint.
        control: its name.
        candidate: its name.
    """

    def __init__(
        self,
        arms: Sequence[tuple[VariantEvidence, VariantEvidence]],
        checkpoints: Sequence[Evidence],
        control: str,
        candidate: str,
    ) -> None:
        self._arms = arms
        self._checkpoints = checkpoints
        self._names = (control, candidate)
        self._laid_out: dict[Histogram, tuple[LatencyTable, LatencyTable]] = {}

    def of(self, histogram: Histogram) -> tuple[LatencyTable, LatencyTable]:
        """The control's and the candidate's table of a histogram."""
        if histogram not in self._laid_out:
            control, candidate = self._names
            self._laid_out[histogram] = (
                LatencyTable.of([a for a, _ in self._arms], self._checkpoints, control, histogram),
                LatencyTable.of([b for _, b in self._arms], self._checkpoints, candidate, histogram),
            )
        return self._laid_out[histogram]


@lru_cache(maxsize=256)
def _past(evidence: ById[VariantEvidence], histogram: Histogram) -> Cumulative:
    return Cumulative.of(list(evidence.value.histograms(histogram).values()))


@lru_cache(maxsize=64)
def _at_checkpoints(checkpoints: tuple[ById[Evidence], ...], name: str, histogram: Histogram) -> Cumulative:
    return Cumulative.of([_whole(checkpoint.value.get(name), histogram) for checkpoint in checkpoints])


def _whole(evidence: VariantEvidence | None, histogram: Histogram) -> Bins:
    return {} if evidence is None else merge(evidence.histograms(histogram).values())
