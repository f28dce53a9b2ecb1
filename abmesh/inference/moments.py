"""Means of independent units from their moments; a covariate from before, values with a cap. Pure.

Called by the reports of files; :mod:`abmesh.inference.means` serves requests of users who repeat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.inference.numbers import Floats


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


def cuped(values: Floats, covariate: Floats, slope: float) -> Floats:
    """Values, adjusted by a covariate from before the experiment: ``Y - theta (X - mean X)``.

    Deng, Xu, Kohavi and Walker, *Improving the Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment
    Data* (WSDM 2013). The variance of a value is ``1 - correlation^2`` times the plain one, with theta of
    :func:`cuped_slope`. With one theta and one mean for all variants, differences of means keep their expectation.

    Args:
        values: of all variants, shape (units,).
        covariate: of the same units.
        slope: theta.
    """
    return np.asarray(values - slope * (covariate - covariate.mean()))


def cuped_slope(arms: Sequence[PairedMoments]) -> float:
    """Theta of :func:`cuped`: how much the metric rises with the covariate within variants; 0 without any spread.

    Args:
        arms: the moments of each variant, in each stage and segment where there are several.
    """
    spread = sum(arm.x.deviations for arm in arms)
    if spread <= 0:
        return 0.0
    return sum(_centred(arm.x.n, arm.x.total, arm.y.total, arm.products) for arm in arms) / spread


def _centred(n: float, left: float, right: float, products: float) -> float:
    """Sum of products of deviations from the means."""
    return products - left / n * right if n > 0 else 0.0


def winsorised(values: Floats, cap: float) -> Floats:
    """Values, with everything above a cap counted as the cap.

    One value in a million may be a thousand times the usual, and a mean whose variance hangs on whether that value has
    come yet is no basis for a decision. The question changes with the cap, to the mean of ``min(X, cap)``; take the cap
    from the control, such as its 99th percentile, and the same for all variants.

    Args:
        values: any shape.
        cap: in their unit.
    """
    return np.minimum(values, cap)
