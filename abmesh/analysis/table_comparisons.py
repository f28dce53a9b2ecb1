"""A table's totals as the comparisons that decisions are made with. Pure.

Called by :mod:`abmesh.analysis.table_report`, :mod:`abmesh.analysis.many` and, for pictures, by
:mod:`abmesh.analysis.series`.

rate    counts of independent requests: a design effect of 1
ratio   of events: counts divided by their design effect between groups of users; of anything else: a mean, with the
        variance between groups of users
mean    a mean, with each variant's own variance between requests

The test of a share is chosen by the rate of both variants and by the size that it is tuned for; see
:mod:`controller.decision.shares`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.analysis.table import Table, Totals
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Floats, Slices
from abmesh.inference.variance import freedom
from controller.decision.comparison import StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.shares import Method, ShareComparison, method_for
from controller.decision.variances import SliceVariances

SHARE_METHODS = {
    Method.RATIO: "exact test of event counts",
    Method.BETS: "exact test of the difference of two shares",
    Method.DIFFERENCE: "confidence sequence of the difference of two shares",
}
"""What a report calls the tests of shares."""

Arms = Sequence[tuple[Totals, Totals]]
"""The control's and a variant's totals in each stage."""


def compared(table: Table, arms: Arms, alpha: float, tuned_for: float) -> ShareComparison | MeanComparison:
    """A variant and the control.

    Args:
        table: that they are from.
        arms: at least one stage; of the control there may be nothing, to look at the variant alone.
        alpha: 0..1, of a two-sided report.
        tuned_for: requests of both at which an interval is narrowest.
    """
    n_a, y_a, n_b, y_b = np.array([(a.n, a.y, b.n, b.y) for a, b in arms], dtype=np.float64).T[:, None, :]
    sums = StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b)
    slices = [_used(a, b) for a, b in arms] if table.kind == "ratio" else []
    both = float(n_a.sum() + n_b.sum())
    # Of the variant's own requests.
    planned = tuned_for * (float(n_b.sum()) / both if n_a.any() and n_b.any() else 0.5)
    if table.share:
        method, rho2 = share_test(y_a.sum() + y_b.sum(), both, planned, alpha)
        if not slices:
            return of_rates(sums, method, rho2)
        by_user = ShareComparison.of_slices(sums, slices, method=method)
        return replace(by_user, rho2=rho2, nu=freedom(*slices[-1]))
    # Each side of a two-sided report has half of alpha.
    rho2 = tuned_rho2(planned, alpha / 2)
    if slices:
        stages = [SliceVariances.of([pair]) for pair in slices]
        return MeanComparison(sums, sums, _StageVariances(stages), rho2, stages[-1].freedom)
    own = _OwnVariances([(_moments(a), _moments(b)) for a, b in arms])
    return MeanComparison(sums, sums, own, rho2, math.inf)


def share_test(events: float, requests: float, planned: float, alpha: float) -> tuple[Method, float]:
    """The test of shares that is the strongest at a size, and its tuning.

    Which one it is depends on the order of magnitude of the rate. That of both together says nothing about their
    difference, and does not depend on which of them is the control.

    Args:
        events: of both.
        requests: of both.
        planned: the variant's requests that the test is tuned for.
        alpha: 0..1, of a two-sided report.
    """
    rate = float(events / requests) if requests > 0 else None
    return method_for(rate, planned), tuned_rho2(planned, alpha / 2)


def of_rates(sums: StratifiedSums, method: Method, rho2: float) -> ShareComparison:
    """Shares of independent requests.

    Args:
        sums: events and requests, shape (comparisons, strata).
        method: see :func:`share_test`.
        rho2: likewise; may have the shape (comparisons,).
    """
    one = np.ones(sums.n_b.shape[-1])
    return ShareComparison(sums, one, one, method, rho2)


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
