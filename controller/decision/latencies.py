"""One variant's histograms of a latency, by stratum and since each marked moment, laid out for many limits. Pure.

What was counted since a moment is what has been counted now less what had been counted then, so nothing has to be
subtracted bin by bin. What belongs to earlier stages and marks never changes and is laid out once.
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
from controller.decision.history import unpack
from controller.evidence.summary import VariantEvidence


@dataclass(frozen=True, slots=True)
class Durations:
    """One variant's durations, or times to the first token.

    Attributes:
        groups: by group of slices, one a stratum.
        then: what the present stage had counted, one row for each marked moment.
        whole: all strata and groups as one.
    """

    groups: tuple[Cumulative, ...]
    then: Cumulative
    whole: Cumulative

    @classmethod
    def of(
        cls, strata: Sequence[VariantEvidence], marks: Sequence[str], name: str, histogram: Histogram = "duration"
    ) -> Durations:
        """Of a variant's evidence in each stratum, and of packed marks of the last one."""
        past = tuple(_kept(_Same(item), histogram) for item in strata[:-1])
        present = Cumulative.of(list(strata[-1].histograms(histogram).values()))
        whole = Cumulative.of([merge(bins for item in strata for bins in item.histograms(histogram).values())])
        return cls((*past, present), _marked(tuple(marks), name, histogram), whole)

    @property
    def alone(self) -> Durations:
        """Without moments."""
        return replace(self, then=_marked((), "", "duration"))

    def above(self, limits: Floats) -> Floats:
        """Requests above each stratum's limit, shape (1 + moments, strata); none where a limit is not a number."""
        known = ~np.isnan(limits)
        at = np.where(known, limits, 0.0)
        rows = np.zeros((1 + len(self.then.sizes), len(self.groups)))
        rows[0] = [groups.exceeding(limit).sum() for groups, limit in zip(self.groups, at, strict=True)]
        rows[1:, -1] = np.maximum(rows[0, -1] - self.then.exceeding(at[-1]), 0.0)
        return np.where(known, rows, 0.0)

    def sizes(self) -> Floats:
        """Requests, shape (1 + moments, strata)."""
        rows = np.zeros((1 + len(self.then.sizes), len(self.groups)))
        rows[0] = [groups.sizes.sum() for groups in self.groups]
        rows[1:, -1] = np.maximum(rows[0, -1] - self.then.sizes, 0.0)
        return rows


class _Same:
    """Evidence that is looked up by being the same object, since it never changes and is large."""

    __slots__ = ("evidence",)

    def __init__(self, evidence: VariantEvidence) -> None:
        self.evidence = evidence

    def __hash__(self) -> int:
        return id(self.evidence)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.evidence is self.evidence


@lru_cache(maxsize=256)
def _kept(same: _Same, histogram: Histogram) -> Cumulative:
    return Cumulative.of(list(same.evidence.histograms(histogram).values()))


@lru_cache(maxsize=64)
def _marked(marks: tuple[str, ...], name: str, histogram: Histogram) -> Cumulative:
    return Cumulative.of([_whole(unpack(mark).get(name), histogram) for mark in marks])


def _whole(evidence: VariantEvidence | None, histogram: Histogram) -> Bins:
    return {} if evidence is None else merge(evidence.histograms(histogram).values())
