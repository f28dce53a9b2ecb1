"""Confidence limits of any comparison, by inverting its e-values. Pure; for people, since verdicts need none.

The lower limit is the largest margin that is still rejected from below, the upper one the smallest that is rejected
from above. As long as the e-value falls with the margin, which it does, the limits hold for all looks at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from abmesh.inference.numbers import Interval, Side
from controller.decision.comparison import Comparison

_STEPS = 48
_DOUBLINGS = 60


def level_interval(found: Comparison, alpha: float, *, share: bool, lowest: float = 0.0) -> Interval:
    """Limits of the candidate's value, each at ``alpha``, from ``lowest`` on; up to 1 for a share of requests."""
    estimate = found.values.candidate
    end = 1.0 if share else math.inf
    if estimate is None:
        return Interval(lowest, end)
    return _interval(lambda side, at: float(found.level(side, at)[0]), estimate, lowest, end, alpha)


def increase_interval(found: Comparison, alpha: float, *, relative: bool, share: bool) -> Interval:
    """Limits of the candidate's value minus the control's, or of their ratio minus one, each at ``alpha``."""
    values = found.values
    low, high = (-1.0, math.inf) if relative else (-1.0, 1.0) if share else (-math.inf, math.inf)
    if values.candidate is None or values.control is None:
        return Interval(low, high)
    if relative:
        estimate = values.candidate / values.control - 1 if values.control > 0 else 1.0
    else:
        estimate = values.candidate - values.control
    return _interval(lambda side, by: float(found.increase(side, by, relative=relative)[0]), estimate, low, high, alpha)


def _interval(
    log_e: Callable[[Side, float], float], estimate: float, low: float, high: float, alpha: float
) -> Interval:
    wanted = -math.log(alpha)
    return Interval(
        _limit(lambda margin: log_e(Side.GREATER, margin) >= wanted, estimate, low),
        _limit(lambda margin: log_e(Side.LESS, margin) >= wanted, estimate, high),
    )


def _limit(rejected: Callable[[float], bool], estimate: float, end: float) -> float:
    """Where rejection begins on the way from the estimate to the end of the scale; the end if nowhere."""
    towards = math.copysign(1.0, end - estimate) if end != estimate else 0.0
    if not towards:
        return end
    inside, outside = estimate, None
    step = max(abs(estimate), 1e-6) / 64
    for _ in range(_DOUBLINGS):
        point = estimate + towards * step
        if (point - end) * towards >= 0:
            # Just inside the end of the scale, where a rate of exactly 0 or 1 would divide by zero.
            point = estimate + (end - estimate) * (1 - 1e-9)
            outside = point if rejected(point) else None
            break
        if rejected(point):
            outside = point
            break
        inside, step = point, step * 2
    if outside is None:
        return end
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejected(middle) else (middle, outside)
    return outside
