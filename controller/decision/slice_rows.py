"""A metric's sums in every slice of users: of each stage, and of the current one since each checkpoint. Pure.

Called by the comparisons beside this module. Arrays have shape (1 + moments, strata, slices), with rows and strata as
in :mod:`controller.decision.comparison`: the first row is all evidence, and each further one is what the current
stage, which is the last stratum, has counted since a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from abmesh.experiment.metrics import Metric
from abmesh.inference.busiest import dominant
from abmesh.inference.numbers import Floats, Slices
from controller.evidence.identity import ById
from controller.evidence.strata import metric_slices, request_counts
from controller.evidence.summary import VariantEvidence

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Slices, or groups of slices, that are not looked at; each of the same shape as the arrays that they apply to."""

    a: Flags
    b: Flags

    @property
    def any(self) -> bool:
        """Whether anything is left out."""
        return bool(self.a.any() or self.b.any())


@dataclass(frozen=True, slots=True)
class SliceRows:
    """Both variants' slices; ``a`` is the control."""

    a: Slices
    b: Slices

    def without(self, out: LeftOut | None) -> SliceRows:
        """The same, with nothing in what is left out."""
        return self if out is None else SliceRows(_without(self.a, out.a), _without(self.b, out.b))


Arm = tuple[Sequence[VariantEvidence], Sequence[VariantEvidence]]
"""One variant's evidence in each stratum, and what its current stage had counted at each checkpoint."""


def metric_rows(a: Arm, b: Arm, slices: int, metric: Metric) -> SliceRows:
    """A ratio metric's denominators and numerators."""

    def arm(strata: Sequence[VariantEvidence], before: Sequence[VariantEvidence]) -> Slices:
        now = [*(_kept(ById(item), slices, metric) for item in strata[:-1]), metric_slices(strata[-1], slices, metric)]
        then = [_kept(ById(item), slices, metric) for item in before]
        n = _rows([each.n for each in now], [each.n for each in then])
        return Slices(np.maximum(n, 0.0), _rows([each.y for each in now], [each.y for each in then]))

    return SliceRows(arm(*a), arm(*b))


def busiest(a: Arm, b: Arm, slices: int, *, least: int = 0) -> LeftOut:
    """Each variant's slices that send far more than others, by stratum, and since each checkpoint by what came since.

    Args:
        a: the control.
        b: the candidate.
        slices: of the experiment.
        least: how many to leave out in any case.
    """

    def arm(strata: Sequence[VariantEvidence], before: Sequence[VariantEvidence]) -> Floats:
        now = [*(_requests(ById(item), slices) for item in strata[:-1]), request_counts(strata[-1], slices)]
        return np.maximum(_rows(now, [_requests(ById(item), slices) for item in before]), 0.0)

    return LeftOut(dominant(arm(*a), least=least), dominant(arm(*b), least=least))


def _rows(now: Sequence[Floats], then: Sequence[Floats]) -> Floats:
    rows = np.zeros((1 + len(then), len(now), now[0].shape[-1]))
    rows[0] = now
    if then:
        rows[1:, -1] = now[-1] - np.array(then)
    return rows


def _without(arm: Slices, out: Flags) -> Slices:
    return Slices(np.where(out, 0.0, arm.n), np.where(out, 0.0, arm.y))


@lru_cache(maxsize=512)
def _kept(evidence: ById[VariantEvidence], slices: int, metric: Metric) -> Slices:
    return metric_slices(evidence.value, slices, metric)


@lru_cache(maxsize=256)
def _requests(evidence: ById[VariantEvidence], slices: int) -> Floats:
    return request_counts(evidence.value, slices)
