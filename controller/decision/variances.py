"""How much a metric varies from request to request, measured between slices of users. Pure.

Called by :mod:`controller.decision.means` and, for shares, by :mod:`controller.decision.shares`. A report
of independent requests has a class of its own that is a :class:`Variances` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.busiest import effective_slices, needed_slices
from abmesh.inference.numbers import Floats, Slices
from abmesh.inference.variance import (
    OWN_RATE_FROM,
    design_effect,
    freedom,
    own_variance,
    rate,
    request_variance,
)
from controller.decision.comparison import MIN_SLICES, few_slices_effect, over_moments

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
    """Variances between slices of users, pooled over both variants, and no less than between those of either one.

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
        """See :class:`Variances`; both variants must have requests in :data:`MIN_SLICES` effective slices."""
        moved = Slices(self.a.n, scale * self.a.y + offset * self.a.n)
        own = (_own_under_null(arm, moved, self.b) for arm in (moved, self.b))
        s2 = np.maximum.reduce([request_variance(moved, self.b), *own])
        return of_seen(_known(s2, moved, self.b, _enough(self.a) & _enough(self.b)), self.a, self.b)

    def candidate(self) -> Floats:
        """See :class:`Variances`; only the candidate must have requests in that many slices."""
        s2 = _own_or_larger(request_variance(self.a, self.b), own_variance(self.b), self.b.total_n * rate(self.b) ** 2)
        return _known(s2, self.a, self.b, _enough(self.b))

    @property
    def freedom(self) -> Floats:
        """Degrees of freedom in the current stratum, shape (...)."""
        return freedom(self.a, self.b)[..., -1]


@dataclass(frozen=True, slots=True)
class MomentVariances:
    """Those of rows since moments, shape (1 + moments, strata): none is below its whole stratum's."""

    slices: SliceVariances

    @property
    def whole(self) -> MomentVariances:
        """Those of all evidence alone."""
        a, b = self.slices.a, self.slices.b
        return MomentVariances(SliceVariances(Slices(a.n[:1], a.y[:1]), Slices(b.n[:1], b.y[:1])))

    def compared(self, scale: float, offset: float) -> Floats:
        """See :class:`Variances`."""
        return over_moments(self.slices.compared(scale, offset))

    def candidate(self) -> Floats:
        """See :class:`Variances`."""
        return over_moments(self.slices.candidate())


def of_seen(found: Floats, a: Slices, b: Slices) -> Floats:
    """Variances of a moved control, shape (..., strata): where all is 0, at least the largest of the other strata.

    Where nothing was counted but zeros, all that varies between slices is the margin that the control is moved by, and
    that would prove whatever is asked.
    """
    some = (a.y != 0).any(axis=-1) | (b.y != 0).any(axis=-1)
    largest = np.where(some & np.isfinite(found), found, 0.0).max(axis=-1, keepdims=True)
    return np.asarray(np.where(some, found, np.where(largest > 0, np.maximum(found, largest), np.inf)))


def share_design_effect(a: Slices, b: Slices) -> Floats:
    """How many requests say as much as one independent request about the difference of two shares, shape (...).

    That between both variants' slices, but no less than that between each variant's own: one user may be most of a
    small canary, and disappear among the control's slices.

    Args:
        a: the control's slices, shape (..., B).
        b: the candidate's.
    """
    own = (effect(arm) for effect in (_own_effect, _few_effect) for arm in (a, b))
    return np.asarray(np.maximum.reduce([_pooled_effect(a, b), *own]))


def candidate_design_effect(a: Slices, b: Slices) -> Floats:
    """How many requests say as much as one independent request about the candidate's own share, shape (...).

    Its own, whatever the control's users are like; with fewer than :data:`OWN_RATE_FROM` effective events, at least
    that between both variants' slices.

    Args:
        a: the control's slices, shape (..., B).
        b: the candidate's.
    """
    share = rate(b)
    events = b.total_n * np.minimum(share, 1 - share)
    return np.maximum(_own_or_larger(_pooled_effect(a, b), _own_effect(b), events), _few_effect(b))


def _pooled_effect(a: Slices, b: Slices) -> Floats:
    pooled = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    return design_effect(request_variance(a, b, share=True), pooled)


def _own_effect(arm: Slices) -> Floats:
    return design_effect(own_variance(arm), rate(arm))


def _few_effect(arm: Slices) -> Floats:
    """The design effect where slices are too few; all events of one slice then count as one event at most."""
    few = few_slices_effect(arm.n, MIN_SLICES)
    slices = effective_slices(arm.y)
    events = np.where(slices > 0, arm.total_y / np.where(slices > 0, slices, 1.0), 1.0)
    return np.asarray(np.where(few > 1, np.maximum(few, events), few))


def _own_under_null(arm: Slices, a: Slices, b: Slices) -> Floats:
    """A variant's own variance per request, were its mean the one of both.

    The variance of events grows with their rate. Without this, the variance of what does more harm would hide it; for a
    share it comes to the same as a design effect.
    """
    common = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    mine = rate(arm)
    higher = (common > 0) & (mine > common)
    return own_variance(arm) * np.where(higher, common / np.where(higher, mine, 1.0), 1.0)


def _own_or_larger(pooled: Floats, own: Floats, events: Floats) -> Floats:
    """The candidate's own where enough effective events tell it; else the larger of the two."""
    known = (own > 0) & (events >= OWN_RATE_FROM * own)
    return np.asarray(np.where(known, own, np.maximum(pooled, own)))


def _enough(arm: Slices) -> NDArray[np.bool_]:
    return np.asarray(effective_slices(arm.n) >= needed_slices(arm.n.shape[-1], MIN_SLICES))


def _known(s2: Floats, a: Slices, b: Slices, enough: NDArray[np.bool_]) -> Floats:
    # Where all durations are alike, rounding leaves a variance that is not quite 0, which would prove anything.
    mean = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    return np.asarray(np.where(enough, np.where(s2 > _ROUNDING * mean**2, s2, 0.0), np.inf))
