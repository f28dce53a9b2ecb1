"""Tests and sizes for one look at a planned size. Pure. Nothing here is valid if you look more than once.

Called by ``abmesh plan`` and, labelled as valid for one look only, by the reports. No decision is made on it.

The test is Welch's, *The generalization of 'Student's' problem when several different population variances are
involved*, Biometrika 34 (1947), with Satterthwaite's degrees of freedom. A ratio of sums over users has the delta
method's variance: Deng, Knoblich and Lu, *Applying the Delta Method in Metric Analytics* (arXiv 1803.06336).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from abmesh.inference import means, sequential
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Interval, Side

_UNBOUNDED = Interval(-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class RatioMoments:
    """One variant's sums over users of a metric y and its denominator m, such as errors and requests.

    Attributes:
        n: users.
        y: sum of y.
        m: sum of m.
        yy: sum of squares of y.
        mm: sum of squares of m.
        ym: sum of products.
    """

    n: float
    y: float
    m: float
    yy: float
    mm: float
    ym: float


@dataclass(frozen=True, slots=True)
class FixedResult:
    """Candidate compared with control, at one look.

    Attributes:
        estimate: difference of means, candidate minus control.
        interval: its confidence interval.
        p: two-sided p-value of no difference.
        relative: the candidate's mean over the control's, minus 1; None if the control's is 0.
        relative_interval: its confidence interval, from that of the logarithm; unbounded if one of the means is 0 or
            they differ in sign.
    """

    estimate: float
    interval: Interval
    p: float
    relative: float | None
    relative_interval: Interval


def welch(a: Moments, b: Moments, alpha: float) -> FixedResult:
    """Welch's t-test of two means.

    Args:
        a: the control's values. Fewer than two give p = 1 and no limits.
        b: the candidate's.
        alpha: of the two-sided intervals.
    """
    return _compared(a.mean, a.variance, a.n, b.mean, b.variance, b.n, alpha)


def ratio_metric(a: RatioMoments, b: RatioMoments, alpha: float) -> FixedResult:
    """Welch's t-test of two ratios of sums, with users as the units.

    With ``R = sum y / sum m``, the variance of one user's contribution is
    ``sum (y - R m)^2 / (n - 1) / (sum m / n)^2``.

    Args:
        a: the control's sums. Fewer than two users, or a denominator of 0, give p = 1 and no limits.
        b: the candidate's.
        alpha: of the two-sided intervals.
    """
    return _compared(*_ratio(a), *_ratio(b), alpha)


def _ratio(arm: RatioMoments) -> tuple[float, float, float]:
    """Mean, variance of one user and users."""
    if arm.m == 0:
        return 0.0, math.inf, arm.n
    ratio = arm.y / arm.m
    if arm.n < 2:
        return ratio, math.inf, arm.n
    # The deviations y - R m sum to 0, so no mean has to be subtracted from their squares.
    squares = max(arm.yy - 2 * ratio * arm.ym + ratio * ratio * arm.mm, 0.0)
    per_user = arm.m / arm.n
    return ratio, squares / (arm.n - 1) / per_user / per_user, arm.n


def two_proportions(s_a: float, n_a: float, s_b: float, n_b: float, alpha: float) -> FixedResult:
    """z-test of two shares: pooled variance for p, each arm's own for the intervals.

    ``z = (p_B - p_A) / sqrt(p (1-p) (1/n_A + 1/n_B))``; the interval of the difference is Wald's, the relative one
    that of the logarithm of the ratio with variance ``(1 - p_A)/s_A + (1 - p_B)/s_B``.

    Args:
        s_a: events of the control.
        n_a: requests of the control; 0 gives p = 1 and no limits.
        s_b: events of the candidate.
        n_b: requests of the candidate.
        alpha: of the two-sided intervals.
    """
    if n_a <= 0 or n_b <= 0:
        return FixedResult(0.0, _UNBOUNDED, 1.0, None, _UNBOUNDED)
    p_a, p_b = s_a / n_a, s_b / n_b
    pooled = (s_a + s_b) / (n_a + n_b)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    difference, z = p_b - p_a, -float(ndtri(alpha / 2))
    p = 2 * float(ndtr(-abs(difference) / deviation)) if deviation > 0 else 1.0
    half = z * math.sqrt(p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b)
    relative = None if p_a == 0 else p_b / p_a - 1
    relative_interval = _UNBOUNDED
    # The share of a part of an event among many requests can be too small for a float while the count is not.
    if p_a > 0 and p_b > 0:
        spread = z * math.sqrt((1 - p_a) / s_a + (1 - p_b) / s_b)
        relative_interval = _around(p_b / p_a, spread)
    return FixedResult(difference, Interval(difference - half, difference + half), p, relative, relative_interval)


def _compared(
    mean_a: float, variance_a: float, n_a: float, mean_b: float, variance_b: float, n_b: float, alpha: float
) -> FixedResult:
    difference = mean_b - mean_a
    relative = None if mean_a == 0 else mean_b / mean_a - 1
    if math.isinf(variance_a) or math.isinf(variance_b):
        return FixedResult(difference, _UNBOUNDED, 1.0, relative, _UNBOUNDED)
    se, df = _welch(variance_a / n_a, n_a, variance_b / n_b, n_b)
    half = _quantile(df, alpha) * se
    certain = 1.0 if difference == 0 else 0.0
    p = min(1.0, 2 * float(stdtr(df, -abs(difference) / se))) if se > 0 else certain
    relative_interval = _UNBOUNDED
    if mean_a * mean_b > 0:
        # Divided twice: the square of a small mean is 0 as a float.
        log_se, log_df = _welch(variance_a / n_a / mean_a / mean_a, n_a, variance_b / n_b / mean_b / mean_b, n_b)
        relative_interval = _around(mean_b / mean_a, _quantile(log_df, alpha) * log_se)
    return FixedResult(difference, Interval(difference - half, difference + half), p, relative, relative_interval)


def _welch(v_a: float, n_a: float, v_b: float, n_b: float) -> tuple[float, float]:
    """Standard error and Satterthwaite's degrees of freedom, from squared standard errors."""
    v = v_a + v_b
    if v <= 0:
        return 0.0, n_a + n_b - 2
    part_a, part_b = v_a / v, v_b / v
    return math.sqrt(v), 1 / (part_a**2 / (n_a - 1) + part_b**2 / (n_b - 1))


def _quantile(df: float, alpha: float) -> float:
    return float(-stdtrit(df, alpha / 2))


def _around(ratio: float, spread: float) -> Interval:
    # Beyond the largest float a limit means nothing; neither does a spread that is not a number.
    if not spread <= 700:
        return _UNBOUNDED
    return Interval(ratio * math.exp(-spread) - 1, ratio * math.exp(spread) - 1)


def sample_size(
    var_a: float, var_b: float, delta: float, alpha: float, power: float, ratio: float = 1.0, *, sides: int = 2
) -> float:
    """Units of the control that one look needs; the candidate needs ``ratio`` times as many.

    ``n_A = (z_{1-alpha/sides} + z_{power})^2 (var_A + var_B / ratio) / delta^2``, not rounded.

    Args:
        var_a: variance of one of the control's values.
        var_b: of one of the candidate's.
        delta: difference of the means to find, not 0.
        alpha: probability of a false alarm.
        power: probability of finding the difference.
        ratio: the candidate's units over the control's.
        sides: 1 or 2.
    """
    return (_z(alpha, sides) + float(ndtri(power))) ** 2 * (var_a + var_b / ratio) / delta**2


def anytime_sample_size(
    var_a: float, var_b: float, delta: float, alpha: float, power: float, ratio: float = 1.0, *, sides: int = 2
) -> float:
    """Units of the control at which a confidence sequence tuned for just that size excludes 0 with the power.

    The half-width of :func:`abmesh.inference.means.half_width` at its own N* takes the place of the normal
    quantile. Earlier looks may find the difference sooner, so the power over all looks is a little higher.

    Args:
        var_a: variance of one of the control's values.
        var_b: of one of the candidate's.
        delta: difference of the means to find, not 0.
        alpha: probability of a false alarm.
        power: probability of finding the difference.
        ratio: the candidate's units over the control's.
        sides: 1 or 2.
    """
    side = Side.TWO_SIDED if sides == 2 else Side.GREATER
    width = float(means.half_width(1.0, 1.0, 1.0, alpha, side=side))
    return (width + float(ndtri(power))) ** 2 * (var_a + var_b / ratio) / delta**2


def sequential_sample_size(
    var_a: float,
    var_b: float,
    delta: float,
    alpha: float,
    power: float,
    looks: int,
    ratio: float = 1.0,
    *,
    sides: int = 2,
) -> float:
    """Units of the control at the last of evenly spaced looks of a group-sequential design.

    Args:
        var_a: variance of one of the control's values.
        var_b: of one of the candidate's.
        delta: difference of the means to find, not 0.
        alpha: probability of a false alarm over all looks.
        power: probability of finding the difference at one of them.
        looks: how many.
        ratio: the candidate's units over the control's.
        sides: 1 or 2.
    """
    single = sample_size(var_a, var_b, delta, alpha, power, ratio, sides=sides)
    return single * sequential.inflation(looks, alpha, power, sides)


def _z(alpha: float, sides: int) -> float:
    return -float(ndtri(alpha / sides))
