"""Means of independent units from their moments: relative lift, a covariate from before, values with a cap. Pure.

Called by the analysis of finished experiments, which may have one row a user; :mod:`abmesh.inference.means` serves
requests of users who repeat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from abmesh.inference.means import Contrast, mean_interval
from abmesh.inference.numbers import Interval, Side


@dataclass(frozen=True, slots=True)
class Moments:
    """One variant's values: how many, their sum and the sum of their squares."""

    n: float
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """0 of no values."""
        return self.total / self.n if self.n > 0 else 0.0

    @property
    def deviations(self) -> float:
        """Sum of the squared deviations from the mean; rounding cannot make it negative."""
        return max(_centred(self.n, self.total, self.total, self.squares), 0.0)

    @property
    def variance(self) -> float:
        """Of one value, with n - 1; infinite of fewer than two."""
        return self.deviations / (self.n - 1) if self.n > 1 else math.inf

    @property
    def standard_error2(self) -> float:
        """Squared standard error of the mean."""
        return self.variance / self.n if self.n > 1 else math.inf


@dataclass(frozen=True, slots=True)
class PairedMoments:
    """One variant's values y with a covariate x each that was measured before the experiment.

    Attributes:
        y: moments of the metric.
        x: moments of the covariate, of the same units.
        products: sum of ``x * y``.
    """

    y: Moments
    x: Moments
    products: float


@dataclass(frozen=True, slots=True)
class Lift:
    """A relative difference ``R_B / R_A - 1`` and its confidence sequence."""

    estimate: float
    interval: Interval
    v: float


def relative_interval(a: Moments, b: Moments, n_star: float, alpha: float, *, side: Side = Side.TWO_SIDED) -> Lift:
    """Relative lift of the mean, with an asymptotic confidence sequence.

    The lift's variance by the delta method is ``V_B / m_A^2 + V_A m_B^2 / m_A^4``, V being squared standard errors; the
    sequence is equation 9 of arXiv 2103.06476 (134 for one side) with n the values of both variants.

    Args:
        a: the control's moments. With a mean of 0 there is no lift: the interval is unbounded.
        b: the candidate's.
        n_star: values at which the interval is narrowest for its alpha.
        alpha: 0..1.
        side: GREATER has a lower limit only, LESS an upper one.
    """
    estimate, v = lift(a.mean, a.standard_error2, b.mean, b.standard_error2)
    return Lift(estimate, mean_interval(estimate, v, a.n + b.n, n_star, alpha, side=side), v)


def lift(rate_a: float, v_a: float, rate_b: float, v_b: float) -> tuple[float, float]:
    """``R_B / R_A - 1`` and its squared standard error by the delta method; (0, inf) with a control's rate of 0.

    Args:
        rate_a: the control's rate or mean.
        v_a: its squared standard error.
        rate_b: the candidate's.
        v_b: its squared standard error.
    """
    if rate_a == 0 or not math.isfinite(v_a + v_b):
        return 0.0, math.inf
    ratio = rate_b / rate_a
    return ratio - 1, v_b / rate_a / rate_a + v_a / rate_a / rate_a * ratio * ratio


def cuped(a: PairedMoments, b: PairedMoments) -> Contrast:
    """Difference of means, adjusted by a covariate from before the experiment.

    ``d = (y_B - y_A) - theta (x_B - x_A)``, the difference of the means of ``Y - theta (X - mean X)``, with theta the
    slope within variants: Deng, Xu, Kohavi and Walker, *Improving the Sensitivity of Online Controlled Experiments by
    Utilizing Pre-Experiment Data* (WSDM 2013). The variance per unit is that of the residuals, which is
    ``1 - correlation^2`` times the plain one. A covariate without spread changes nothing.

    Args:
        a: the control's moments.
        b: the candidate's.
    """
    slope = _slope(a, b)
    d = b.y.mean - a.y.mean - slope * (b.x.mean - a.x.mean)
    v = _residual(a, slope) + _residual(b, slope)
    n_a, n_b = a.y.n, b.y.n
    weight = n_a * n_b / (n_a + n_b) if n_a > 0 and n_b > 0 else 0.0
    return Contrast(np.asarray(d), np.asarray(v), np.asarray(n_b), np.asarray(weight), np.asarray(math.inf))


def _slope(a: PairedMoments, b: PairedMoments) -> float:
    spread = a.x.deviations + b.x.deviations
    if spread <= 0:
        return 0.0
    return sum(_centred(arm.x.n, arm.x.total, arm.y.total, arm.products) for arm in (a, b)) / spread


def _residual(arm: PairedMoments, slope: float) -> float:
    """Squared standard error of a variant's adjusted mean."""
    n, y, x = arm.y.n, arm.y, arm.x
    if n <= 1:
        return math.inf
    squares = y.deviations
    squares -= 2 * slope * _centred(n, x.total, y.total, arm.products)
    squares += slope**2 * x.deviations
    return max(squares, 0.0) / (n - 1) / n


def _centred(n: float, left: float, right: float, products: float) -> float:
    """Sum of products of deviations from the means."""
    return products - left / n * right if n > 0 else 0.0


def winsorised(bins: Mapping[tuple[float, float], int], cap: float) -> Moments:
    """Moments of a histogram's values with everything above a cap counted as the cap.

    One request in a million may cost a thousand times the usual, and a mean whose variance hangs on whether that
    request has come yet is no ground for a decision. The question changes with the cap, to the mean of ``min(X, cap)``;
    take the cap from the control before the stage, such as its 99th percentile, and the same for all variants.

    Inside a bin, values are taken as spread evenly, so that the squares of a bin sum to
    ``count * (middle^2 + width^2 / 12)``.

    Args:
        bins: (lower bound, width) -> count, in the metric's unit.
        cap: in the metric's unit.
    """
    n = total = squares = 0.0
    for (lower, width), count in bins.items():
        upper = lower + width
        below = 1.0 if upper <= cap else 0.0 if lower >= cap else (cap - lower) / width
        top = min(upper, cap)
        middle, inner = (lower + top) / 2, top - lower
        n += count
        total += count * (below * middle + (1 - below) * cap)
        squares += count * (below * (middle**2 + inner**2 / 12) + (1 - below) * cap**2)
    return Moments(n, total, squares)
