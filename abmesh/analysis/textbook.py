"""The analyses of textbooks: for one look at the end, and for a few looks that were planned. Pure.

They stand beside the analysis that is valid at any look, each under the name of what it is valid for. Called by
:mod:`abmesh.analysis.table_report`.
"""

from __future__ import annotations

import math
from functools import lru_cache

from abmesh.analysis.records import Estimate, Finding
from abmesh.analysis.table import Totals
from abmesh.analysis.table_comparisons import Arms
from abmesh.inference.fixed import FixedResult, RatioMoments, ratio_metric, two_proportions, welch
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Interval
from abmesh.inference.sequential import boundaries
from controller.decision.means import MeanComparison
from controller.decision.shares import ShareComparison

ONE_LOOK = "for one look only"
PLANNED_LOOKS = "at planned looks only"


def compare(arms: Arms, alpha: float) -> Finding:
    """The candidate against the control as the textbooks do it, over all stages together.

    Args:
        arms: stages in which both have requests; at least one.
        alpha: 0..1, two-sided.
    """
    a, b = arms[0]
    for more_a, more_b in arms[1:]:
        a, b = a + more_a, b + more_b
    found, method = _tested(a, b, alpha)
    if len(arms) > 1:
        method += "; pooled over the stages, which is right only if nothing drifted between them"
    lift = Estimate(found.relative, found.relative_interval) if found.relative is not None and a.y > 0 else None
    difference = Estimate(found.estimate, found.interval)
    return Finding(ONE_LOOK, difference, lift, found.p, found.p, found.p <= alpha, method)


def _tested(a: Totals, b: Totals, alpha: float) -> tuple[FixedResult, str]:
    if a.slices is not None and b.slices is not None:
        return ratio_metric(_ratio_moments(a), _ratio_moments(b), alpha), "Welch's t-test between groups of users"
    if a.yy is not None and b.yy is not None:
        return welch(Moments(a.n, a.y, a.yy), Moments(b.n, b.y, b.yy), alpha), "Welch's t-test"
    return two_proportions(a.y, a.n, b.y, b.n, alpha), "z-test of two shares"


def _ratio_moments(totals: Totals) -> RatioMoments:
    """Sums over groups of users, each of which is one unit; empty ones are left out."""
    assert totals.slices is not None
    used = totals.slices.n > 0
    n, y = totals.slices.n[used], totals.slices.y[used]
    return RatioMoments(float(used.sum()), float(y.sum()), float(n.sum()), float(y @ y), float(n @ n), float(y @ n))


def at_planned_looks(found: ShareComparison | MeanComparison, alpha: float, planned: int, looks: int) -> Finding:
    """The candidate against the control at one of a few evenly spaced looks, this one being the latest.

    The z-statistic is the one that a group-sequential goal is decided by. The interval is the repeated confidence
    interval ``d +- boundary * se``, which holds at all planned looks together: Jennison and Turnbull, *Group Sequential
    Methods* (1999), chapter 9.

    Args:
        found: the comparison.
        alpha: 0..1, two-sided.
        planned: the candidate's requests at the last look.
        looks: how many there are.
    """
    (d,), (v,) = found.contrast()
    error = math.sqrt(v)
    now = min(1.0, found.values.n / planned)
    before = [look / looks for look in range(1, looks) if look / looks < now * (1 - 1e-9)]
    boundary = _boundary((*before, now), alpha)
    known = 0 < error < math.inf
    z = float(d) / error if known else 0.0
    interval = (
        Interval(float(d) - boundary * error, float(d) + boundary * error) if known else Interval(-math.inf, math.inf)
    )
    method = f"O'Brien and Fleming's boundary after Lan and DeMets, this being look {len(before) + 1} of {looks}"
    note = f"z {z:.2f} of {boundary:.2f}"
    difference = Estimate(float(d), interval)
    return Finding(PLANNED_LOOKS, difference, None, math.nan, math.nan, abs(z) >= boundary, method, note)


@lru_cache(maxsize=256)
def _boundary(fractions: tuple[float, ...], alpha: float) -> float:
    return boundaries(fractions, alpha, sides=2)[-1]
