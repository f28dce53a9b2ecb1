"""Means of independent units from their moments; a covariate from before, values with a cap. Pure.

Called by the reports of files; :mod:`abmesh.inference.means` serves requests of users who repeat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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


def cuped(a: PairedMoments, b: PairedMoments) -> tuple[float, float]:
    """Difference of means, adjusted by a covariate from before the experiment, and its squared standard error.

    ``d = (y_B - y_A) - theta (x_B - x_A)``, the difference of the means of ``Y - theta (X - mean X)``, with theta the
    slope within variants: Deng, Xu, Kohavi and Walker, *Improving the Sensitivity of Online Controlled Experiments by
    Utilizing Pre-Experiment Data* (WSDM 2013). The variance per unit is that of the residuals, which is
    ``1 - correlation^2`` times the plain one. A covariate without spread changes nothing.

    Args:
        a: the control's moments.
        b: the candidate's.
    """
    slope = cuped_slope((a, b))
    d = b.y.mean - a.y.mean - slope * (b.x.mean - a.x.mean)
    return d, _residual(a, slope) + _residual(b, slope)


def cuped_slope(arms: Sequence[PairedMoments]) -> float:
    """Theta of :func:`cuped`: how much the metric rises with the covariate within variants; 0 without any spread.

    Args:
        arms: the moments of each variant, in each stage and segment where there are several.
    """
    spread = sum(arm.x.deviations for arm in arms)
    if spread <= 0:
        return 0.0
    return sum(_centred(arm.x.n, arm.x.total, arm.y.total, arm.products) for arm in arms) / spread


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
    request has come yet is no basis for a decision. The question changes with the cap, to the mean of ``min(X, cap)``;
    take the cap from the control before the stage, such as its 99th percentile, and the same for all variants.

    Values inside a bin are taken to be spread evenly, so the squares of a bin sum to
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
