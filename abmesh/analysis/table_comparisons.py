"""A table's totals as the comparisons that decisions are made with. Pure.

Called by :mod:`abmesh.analysis.table_report`, :mod:`abmesh.analysis.many` and, for pictures, by
:mod:`abmesh.analysis.series`.

rate    counts of independent requests: a design effect of 1
ratio   of events: counts divided by their design effect between groups of users; of anything else: a mean, with the
        variance between groups of users
mean    a mean, with each variant's own variance between requests

Events of a table may be frequent, so rates are compared by bets, which gain from requests without an event as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.analysis.table import Table, Totals
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Floats, Slices
from controller.decision.comparison import StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.shares import Method, ShareComparison
from controller.decision.variances import SliceVariances

Arms = Sequence[tuple[Totals, Totals]]
"""The control's and a variant's totals in each stage."""


def compared(table: Table, arms: Arms, alpha: float, tuned_for: float) -> ShareComparison | MeanComparison:
    """A variant and the control.

    Args:
        table: that they are from.
        arms: at least one stage; of the control there may be nothing, to look at the variant alone.
        alpha: 0..1, of a two-sided report.
        tuned_for: requests of both at which a mean's interval is narrowest.
    """
    n_a, y_a, n_b, y_b = np.array([(a.n, a.y, b.n, b.y) for a, b in arms], dtype=np.float64).T[:, None, :]
    sums = StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b)
    slices = [_used(a, b) for a, b in arms] if table.kind == "ratio" else []
    if table.share and slices:
        return ShareComparison.of_slices(sums, slices, method=Method.BETS)
    if table.share:
        return of_rates(sums)
    both = float(n_a.sum() + n_b.sum())
    part = float(n_b.sum()) / both if n_a.any() and n_b.any() else 0.5
    # Each side of a two-sided report has half of alpha.
    rho2 = tuned_rho2(tuned_for * part, alpha / 2)
    if slices:
        stages = [SliceVariances.of([pair]) for pair in slices]
        return MeanComparison(sums, sums, _StageVariances(stages), rho2, stages[-1].freedom)
    own = _OwnVariances([(_moments(a), _moments(b)) for a, b in arms])
    return MeanComparison(sums, sums, own, rho2, math.inf)


def of_rates(sums: StratifiedSums) -> ShareComparison:
    """Shares of independent requests.

    Args:
        sums: events and requests, shape (comparisons, strata).
    """
    one = np.ones(sums.n_b.shape[-1])
    return ShareComparison(sums, one, one, Method.BETS)


@dataclass(frozen=True, slots=True)
class _StageVariances:
    """Variances of stages whose users fall in different groups, which cannot be put into one array."""

    stages: Sequence[SliceVariances]

    def compared(self, scale: float, offset: float) -> Floats:
        return np.concatenate([stage.compared(scale, offset) for stage in self.stages])

    def candidate(self) -> Floats:
        return np.concatenate([stage.candidate() for stage in self.stages])


@dataclass(frozen=True, slots=True)
class _OwnVariances:
    """Each variant's variance between independent requests, as :class:`~controller.decision.variances.Variances`.

    The variance per request that, if both had it in common, would make the difference as uncertain as their own do:
    ``s2 (1/n_A + 1/n_B) = s2_A / n_A + s2_B / n_B``.
    """

    strata: Sequence[tuple[Moments, Moments]]

    def compared(self, scale: float, offset: float) -> Floats:  # noqa: ARG002 - moving all values changes no variance
        found = []
        for a, b in self.strata:
            v = scale**2 * a.standard_error2 + b.standard_error2
            found.append(v * a.n * b.n / (a.n + b.n) if math.isfinite(v) else math.inf)
        return np.array(found)

    def candidate(self) -> Floats:
        return np.array([b.variance for _, b in self.strata])


def _moments(totals: Totals) -> Moments:
    return Moments(totals.n, totals.y, totals.yy or 0.0)


def _used(a: Totals, b: Totals) -> tuple[Slices, Slices]:
    """Groups that any user is in: with few users most groups are empty and must not count."""
    some = b.slices if a.slices is None else a.slices
    assert some is not None
    nothing = Slices(np.zeros_like(some.n), np.zeros_like(some.n))
    mine, theirs = a.slices or nothing, b.slices or nothing
    used = (mine.n > 0) | (theirs.n > 0)
    return Slices(mine.n[used], mine.y[used]), Slices(theirs.n[used], theirs.y[used])
