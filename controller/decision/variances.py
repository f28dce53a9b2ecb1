"""How much a metric varies from request to request, measured between slices of users. Pure.

Called by :mod:`controller.decision.means` and, for shares, by :mod:`controller.decision.shares`. A report lends these
variances to segments, or takes those of independent requests, by other classes that are a :class:`Variances` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from abmesh.inference.numbers import Floats, Slices
from abmesh.inference.variance import design_effect, freedom, request_variance
from controller.decision.comparison import MIN_SLICES, few_slices_effect

_ROUNDING = 1e-15
"""A variance below this part of the squared mean is rounding."""


class Variances(Protocol):
    """Each stratum's variance per request, shape (..., strata); infinite where the evidence is too thin to tell."""

    def compared(self, scale: float, offset: float) -> Floats:
        """That of both variants, once the control's values are ``scale`` times what they are plus an ``offset``."""
        ...

    def candidate(self) -> Floats:
        """That of the candidate's own value."""
        ...


@dataclass(frozen=True, slots=True)
class SliceVariances:
    """Variances between slices of users, pooled over both variants.

    Attributes:
        a: the control's slices in each stratum, shape (..., strata, B).
        b: the candidate's.
    """

    a: Slices
    b: Slices

    @classmethod
    def of(cls, strata: Sequence[tuple[Slices, Slices]]) -> SliceVariances:
        """The control's and the candidate's slices in each stratum, each of shape (..., B)."""
        arms = list(zip(*strata, strict=True))
        a, b = (
            Slices(np.stack([arm.n for arm in each], axis=-2), np.stack([arm.y for arm in each], axis=-2))
            for each in arms
        )
        return cls(a, b)

    def compared(self, scale: float, offset: float) -> Floats:
        """See :class:`Variances`; both variants must have requests in :data:`MIN_SLICES` slices."""
        moved = Slices(self.a.n, scale * self.a.y + offset * self.a.n)
        return _between_slices(moved, self.b, np.minimum(_seen(self.a), _seen(self.b)))

    def candidate(self) -> Floats:
        """See :class:`Variances`; only the candidate must have requests in that many slices."""
        return _between_slices(self.a, self.b, _seen(self.b))

    @property
    def freedom(self) -> Floats:
        """Degrees of freedom in the current stratum, shape (...)."""
        return freedom(self.a, self.b)[..., -1]


def share_design_effect(a: Slices, b: Slices) -> Floats:
    """How many requests say as much about a share as one independent request, shape (...).

    Args:
        a: the control's slices, shape (..., B).
        b: the candidate's.
    """
    pooled = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    between = design_effect(request_variance(a, b, share=True), pooled)
    few = np.maximum(few_slices_effect(a.n, MIN_SLICES), few_slices_effect(b.n, MIN_SLICES))
    return np.maximum(between, few)


def _seen(arm: Slices) -> Floats:
    return np.asarray(np.count_nonzero(arm.n, axis=-1), dtype=np.float64)


def _between_slices(a: Slices, b: Slices, seen: Floats) -> Floats:
    s2 = request_variance(a, b)
    # Where all durations are alike, rounding leaves a variance that is not quite 0, which would prove anything.
    mean = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    return np.asarray(np.where(seen >= MIN_SLICES, np.where(s2 > _ROUNDING * mean**2, s2, 0.0), np.inf))
