"""The analyses of textbooks: for one look at the end, and for a few looks that were planned. Pure.

They stand beside the analysis that may be looked at any time, each under the name of what it is valid for. Called by
:mod:`abmesh.analysis.report`.
"""

from __future__ import annotations

import math
from functools import lru_cache

from abmesh.analysis.anytime import Arms, contrast, standardised
from abmesh.analysis.records import Estimate, Finding, Metric, Sums
from abmesh.inference.fixed import FixedResult, RatioMoments, ratio_metric, two_proportions, welch
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Interval
from abmesh.inference.sequential import boundaries

ONE_LOOK = "for one look only"
PLANNED_LOOKS = "at planned looks only"


def compare(metric: Metric, arms: Arms, alpha: float) -> Finding:
    """The candidate against the control as the textbooks do it, over all stages together.

    Args:
        metric: what.
        arms: stages in which both have requests; at least one.
        alpha: 0..1, two-sided.
    """
    a, b = arms[0]
    for more_a, more_b in arms[1:]:
        a, b = a + more_a, b + more_b
    found, method = _tested(metric, a, b, alpha)
    if len(arms) > 1:
        method += "; pooled over the stages, which is right only if nothing drifted between them"
    lift = Estimate(found.relative, found.relative_interval) if found.relative is not None and a.y > 0 else None
    difference = Estimate(found.estimate, found.interval)
    return Finding(ONE_LOOK, difference, lift, found.p, found.p, found.p <= alpha, method)


def _tested(metric: Metric, a: Sums, b: Sums, alpha: float) -> tuple[FixedResult, str]:
    if metric.kind == "ratio":
        return ratio_metric(_ratio_moments(a), _ratio_moments(b), alpha), "Welch's t-test between groups of users"
    if a.yy is not None and b.yy is not None:
        return welch(Moments(a.n, a.y, a.yy), Moments(b.n, b.y, b.yy), alpha), "Welch's t-test"
    return two_proportions(a.y, a.n, b.y, b.n, alpha), "z-test of two shares"


def _ratio_moments(sums: Sums) -> RatioMoments:
    """Sums over groups of users, each of which is one unit; empty ones are none."""
    assert sums.slices is not None
    used = sums.slices.n > 0
    n, y = sums.slices.n[used], sums.slices.y[used]
    return RatioMoments(float(used.sum()), float(y.sum()), float(n.sum()), float(y @ y), float(n @ n), float(y @ n))


def at_planned_looks(metric: Metric, arms: Arms, alpha: float, planned: int, looks: int) -> Finding:
    """The candidate against the control at one of a few evenly spaced looks, this one being the latest.

    The interval is the repeated confidence interval ``d +- boundary * se``, which holds at all planned looks together:
    Jennison and Turnbull, *Group Sequential Methods* (1999), chapter 9. A share has the variance that both variants
    have in common if nothing differs, ``phi p (1 - p) (1/n_A + 1/n_B)`` in each stage, with the pooled share p and,
    where users repeat, the design effect phi: a small variant's own share and variance err together.

    Args:
        metric: what.
        arms: stages in which both have requests; at least one.
        alpha: 0..1, two-sided.
        planned: the candidate's requests at the last look.
        looks: how many there are.
    """
    if metric.unit == "share":
        d, v = contrast(metric, arms)
    else:
        found = standardised(arms)
        d, v = found.b - found.a, found.v_a + found.v_b
    error = math.sqrt(v)
    now = min(1.0, sum(b.n for _, b in arms) / planned)
    before = [look / looks for look in range(1, looks) if look / looks < now * (1 - 1e-9)]
    boundary = _boundary((*before, now), alpha)
    z = d / error if error > 0 else 0.0
    interval = Interval(d - boundary * error, d + boundary * error) if error > 0 else Interval(-math.inf, math.inf)
    method = f"O'Brien and Fleming's boundary after Lan and DeMets, this being look {len(before) + 1} of {looks}"
    note = f"z {z:.2f} of {boundary:.2f}"
    return Finding(PLANNED_LOOKS, Estimate(d, interval), None, math.nan, math.nan, abs(z) >= boundary, method, note)


@lru_cache(maxsize=256)
def _boundary(fractions: tuple[float, ...], alpha: float) -> float:
    return boundaries(fractions, alpha, sides=2)[-1]
