"""Confidence limits of a comparison: the margins that its e-values do not reject. Pure.

Called by the reports and by ``abmesh explain``; verdicts need no limits. The lower limit is the largest margin that is
rejected from below, the upper one the smallest that is rejected from above, so an interval leaves out a margin where
the e-value rejects it. Limits hold for all looks at once.
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
        judged: a limit that a guardrail judges the value by. The interval agrees with that e-value even where the
            evidence does not change evenly with the limit, as a quantile's does not where few users are.

    Returns:
        In the metric's unit. It always holds the estimate, even where many values are alike and the estimate, one of
        them, is itself a limit.
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

    # "No difference" may have a test of its own: whatever a search finds, the limits agree with it about 0.
    known = (0.0,) if judged is None or judged == 0 else (0.0, judged)
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
        known: margins that the limits must agree about with the e-value, even if that does not change evenly.
    """
    scale = scale or 1e-6

    def excess(side: Side) -> Callable[[float], float]:
        return lambda margin: _root(log_e(side, margin)) - _root(-math.log(alpha))

    lower = _limit(excess(Side.GREATER), estimate, scale, low, high, known)
    upper = _limit(excess(Side.LESS), estimate, scale, high, low, known)
    # Strata that contradict each other may reject every margin; what lies between the limits is all there is to show.
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
        # A start counts only where those before it leave room for the limit.
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
        outside = _outward(excess, inside, scale, end, out)
        if outside is None:
            return end
    if inside is None:
        inside = _inward(excess, outside, scale, other_end, out)
        if inside is None:
            return other_end
    limit = _crossing(excess, inside, outside, scale)
    # A limit at 0 that does not reject 0 itself must not seem to.
    at_none = inside == 0.0 and 0.0 in known and abs(limit) <= 2 * _PRECISION * scale
    return math.nextafter(0.0, end) if at_none else limit


def _outward(excess: Callable[[float], float], inside: float, scale: float, end: float, out: float) -> float | None:
    """The first of ever longer steps towards the end that is rejected."""
    step = scale / 64
    while step < _FARTHEST * scale:
        point = inside + out * step
        if (point - end) * out >= 0:
            point = inside + (end - inside) * _NEAR_THE_END
            return point if excess(point) >= 0 else None
        if excess(point) >= 0:
            return point
        step *= _GROWTH
    return None


def _inward(excess: Callable[[float], float], outside: float, scale: float, end: float, out: float) -> float | None:
    """The first of ever longer steps towards the other end that is not rejected."""
    step = scale / 64
    while step < _FARTHEST * scale:
        point = outside - out * step
        if (end - point) * out >= 0:
            point = outside + (end - outside) * _NEAR_THE_END
            return point if excess(point) < 0 else None
        if excess(point) < 0:
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
