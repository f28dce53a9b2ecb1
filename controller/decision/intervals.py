"""Confidence limits of a comparison: the margins that its e-values do not reject. Pure.

Called by the reports and by ``abmesh explain``; verdicts need no limits. The lower limit is the largest margin that is
rejected from below, the upper limit the smallest that is rejected from above. So an interval excludes a margin exactly
if the e-value rejects it, and its limits hold for all looks at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

from abmesh.inference.numbers import Interval, Side
from controller.decision.comparison import Comparison

_GROWTH = 4.0
_FARTHEST = 1e12
"""How many times the scale of the values a limit is looked for."""

_PRECISION = 1e-9
"""Of a limit, as a part of the scale."""

_NEAR_THE_END = 1 - 1e-9
"""Just inside the end of a scale, where a rate of exactly 0 or 1 would divide by zero."""


def level_interval(
    found: Comparison, alpha: float, *, share: bool, lowest: float = 0.0, judged: float | None = None
) -> Interval:
    """Limits of the candidate's value, each at ``alpha``.

    Args:
        found: the comparison.
        alpha: 0..1, of each limit.
        share: whether no value exceeds 1.
        lowest: the smallest possible value; may be infinite.
        judged: a limit that a guardrail judges the value by. The interval agrees with that verdict even where the
            evidence does not rise evenly with the limit, as for a quantile with few users.

    Returns:
        In the metric's unit. It always includes the estimate, which itself is a limit where many values are alike.
    """
    estimate = found.values.candidate
    end = 1.0 if share else math.inf
    if estimate is None:
        return Interval(lowest, end)

    def log_e(side: Side, at: float) -> float:
        return float(found.level(side, at)[0])

    limits = _interval(log_e, estimate, abs(estimate), lowest, end, alpha, () if judged is None else (judged,))
    return Interval(min(limits.lower, estimate), max(limits.upper, estimate))


def increase_interval(
    found: Comparison, alpha: float, *, relative: bool, share: bool, judged: float | None = None
) -> Interval:
    """Limits of the candidate's value minus the control's, or of their ratio minus one.

    Args:
        found: the comparison.
        alpha: 0..1, of each limit.
        relative: whether the ratio is asked for.
        share: whether values lie in 0..1.
        judged: a margin that a guardrail judges the increase by; see :func:`level_interval`.

    Returns:
        In the metric's unit, or, relative, as a share of the control's value.
    """
    low, high = (-1.0, math.inf) if relative else (-1.0, 1.0) if share else (-math.inf, math.inf)
    standard = found.standardised
    if standard is None:
        return Interval(low, high)
    a, b = standard
    if relative:
        estimate, scale = (b / a - 1 if a > 0 else 1.0), 1.0
    else:
        estimate, scale = b - a, max(abs(a), abs(b))

    def log_e(side: Side, by: float) -> float:
        return float(found.increase(side, by, relative=relative)[0])

    # "No difference" may have a test of its own; the limits agree with it unless it contradicts the guardrail's.
    known = (0.0,) if judged is None or judged == 0 else (judged, 0.0)
    return _interval(log_e, min(max(estimate, low), high), scale, low, high, alpha, known)


def _interval(
    log_e: Callable[[Side, float], float],
    estimate: float,
    scale: float,
    low: float,
    high: float,
    alpha: float,
    known: tuple[float, ...],
) -> Interval:
    """Both limits.

    Args:
        log_e: logarithm of the e-value on a side of a margin.
        estimate: where to begin.
        scale: of the values; sets the first step and the precision.
        low: the smallest possible margin.
        high: the largest.
        alpha: of each limit.
        known: margins about which the limits must agree with the e-value, even if it does not change evenly; the
            earlier ones count where they contradict each other.
    """
    scale = scale or 1e-6

    def excess(side: Side) -> Callable[[float], float]:
        return lambda margin: _root(log_e(side, margin)) - _root(-math.log(alpha))

    lower = _limit(excess(Side.GREATER), estimate, scale, low, high, known)
    upper = _limit(excess(Side.LESS), estimate, scale, high, low, known)
    # Strata that contradict each other may reject every margin; the interval is then what lies between the limits.
    return Interval(min(lower, upper), max(lower, upper))


def _root(log_e: float) -> float:
    """Evidence on a scale on which it grows nearly evenly with the margin; a logarithm grows with its square."""
    return math.copysign(math.sqrt(min(abs(log_e), 1e6)), log_e)


def _limit(
    excess: Callable[[float], float],
    estimate: float,
    scale: float,
    end: float,
    other_end: float,
    known: tuple[float, ...],
) -> float:
    """Where rejection begins on the way to ``end``: the nearest margin with an ``excess`` of at least 0.

    Args:
        excess: by how much the evidence exceeds what rejects.
        estimate: where to begin.
        scale: of the values.
        end: of the scale, where the limit lies if nothing is rejected.
        other_end: of the scale.
        known: see :func:`_interval`.
    """
    out = math.copysign(1.0, end - other_end)
    if (end - estimate) * out <= 0:
        return end
    inside: float | None = None
    outside: float | None = None
    for start in (*known, estimate):
        # The limit lies between the starts that are rejected and those that are not; others tell nothing new.
        if inside is not None and (start - inside) * out <= 0:
            continue
        if outside is not None and (outside - start) * out <= 0:
            continue
        if excess(start) >= 0:
            outside = start
        else:
            inside = start
    if outside is None:
        assert inside is not None
        outside = _first(excess, inside, scale, end, rejected=True)
        if outside is None:
            return end
    if inside is None:
        inside = _first(excess, outside, scale, other_end, rejected=False)
        if inside is None:
            return other_end
    limit = _crossing(excess, inside, outside, scale)
    # Where 0 itself is not rejected, a limit at 0 lies just beyond it.
    at_none = inside == 0.0 and 0.0 in known and abs(limit) <= 2 * _PRECISION * scale
    return math.nextafter(0.0, end) if at_none else limit


def _first(excess: Callable[[float], float], start: float, scale: float, end: float, *, rejected: bool) -> float | None:
    """Where the first of ever longer steps towards an end of the scale is rejected, or not; None if nowhere."""
    towards = math.copysign(1.0, end - start)
    step = scale / 64
    while step < _FARTHEST * scale:
        point = start + towards * step
        if (point - end) * towards >= 0:
            point = start + (end - start) * _NEAR_THE_END
            return point if (excess(point) >= 0) == rejected else None
        if (excess(point) >= 0) == rejected:
            return point
        step *= _GROWTH
    return None


def _crossing(excess: Callable[[float], float], inside: float, outside: float, scale: float) -> float:
    """Where the excess becomes 0 between a margin that is not rejected and one that is; on the rejected side."""
    tolerance = _PRECISION * scale
    found = float(brentq(excess, inside, outside, xtol=tolerance, rtol=1e-12))
    step = math.copysign(tolerance, outside - inside)
    while excess(found) < 0 and (outside - found) * step > 0:
        found, step = found + step, 2 * step
    return outside if (outside - found) * step <= 0 else found
