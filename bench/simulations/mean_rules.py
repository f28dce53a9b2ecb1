"""Rules that alarm on means and ratios: the controller's comparison, and the naive ones that it is compared with.

Used by :mod:`bench.simulations.means`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtri

from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.variance import freedom
from controller.decision.comparison import StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.variances import SliceVariances, Variances

ALPHA: Final = 0.05
_NAIVE_Z: Final = float(ndtri(1 - ALPHA / 2))

Strata = Sequence[Slices]
Rule = Callable[[Strata, Strata], Floats]
"""From the strata of both variants, shape (runs, looks, slices) each, to evidence (runs, looks); _LIMIT is an alarm."""


def ours(n_star: float, *, side: Side | None = None, by: float = 0.0) -> Rule:
    """The controller's comparison at every look of every run, on one side, or on both as in a report."""

    def rule(a: Strata, b: Strata) -> Floats:
        found = compared(a, b, n_star, SliceVariances.of(list(zip(a, b, strict=True))))
        return evidence(found, side, by)

    return rule


def compared(
    a: Strata, b: Strata, n_star: float, variances: Variances, nu: Floats | float | None = None
) -> MeanComparison:
    """A comparison whose looks and runs take the place of moments.

    The current stage of a look is the last one with requests of the candidate.
    """
    y_a, y_b = (np.stack([arm.total_y for arm in each], axis=-1) for each in (a, b))
    n_a, n_b = (np.stack([arm.total_n for arm in each], axis=-1) for each in (a, b))
    sums = StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b)
    if nu is None:
        present = np.maximum((n_b > 0).sum(axis=-1) - 1, 0)[..., None]
        each = np.stack([freedom(*pair) for pair in zip(a, b, strict=True)], axis=-1)
        nu = np.take_along_axis(each, present, axis=-1)[..., 0]
    return MeanComparison(sums, sums, variances, tuned_rho2(n_star, ALPHA), nu)


def evidence(found: MeanComparison, side: Side | None, by: float = 0.0) -> Floats:
    """On one side; on both, each has half of alpha."""
    if side is not None:
        return found.increase(side, by, relative=True)
    greater, less = (found.increase(each, by, relative=True) for each in (Side.GREATER, Side.LESS))
    return np.asarray(np.maximum(greater, less) - math.log(2))


@dataclass(frozen=True, slots=True)
class OwnSlices:
    """Naive variances: each variant's from its own slices, as precise as they are few."""

    strata: Sequence[tuple[Slices, Slices]]

    def compared(self, scale: float, offset: float) -> Floats:  # noqa: ARG002 - no margin is asked for
        return np.stack([self._of(a, b) for a, b in self.strata], axis=-1)

    def candidate(self) -> Floats:
        raise NotImplementedError

    def _of(self, a: Slices, b: Slices) -> Floats:
        n_a, n_b = np.maximum(a.total_n, 1), np.maximum(b.total_n, 1)
        v = _own(a) + _own(b)
        return np.asarray(v * n_a * n_b / (n_a + n_b))


def _own(arm: Slices) -> Floats:
    """``B/(B-1) sum (Y - R N)^2 / (sum N)^2``."""
    n = np.maximum(arm.total_n, 1)
    rate = arm.total_y / n
    slices = arm.n.shape[-1]
    return np.asarray(((arm.y - rate[..., None] * arm.n) ** 2).sum(axis=-1) * slices / (slices - 1) / n**2)


@dataclass(frozen=True, slots=True)
class PerRequest:
    """Naive variances: requests taken as independent."""

    strata: Sequence[tuple[Slices, Slices]]

    def compared(self, scale: float, offset: float) -> Floats:  # noqa: ARG002 - no margin is asked for
        found = []
        for a, b in self.strata:
            rate = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
            found.append(rate * (1 - rate))
        return np.stack(found, axis=-1)

    def candidate(self) -> Floats:
        raise NotImplementedError


def own_slices(n_star: float) -> Rule:
    """Each variant's variance from its own slices."""
    return lambda a, b: evidence(compared(a, b, n_star, OwnSlices(list(zip(a, b, strict=True)))), None)


def per_request(n_star: float) -> Rule:
    """Requests taken as independent: the variance of a share."""
    return lambda a, b: evidence(compared(a, b, n_star, PerRequest(list(zip(a, b, strict=True))), math.inf), None)


def pooled_stages(n_star: float) -> Rule:
    """Stages added up before they are compared."""
    inner = ours(n_star)
    return lambda a, b: inner([_added(a)], [_added(b)])


def repeated_t(a: Strata, b: Strata) -> Floats:
    """The fixed-horizon test at every look, on requests taken as independent."""
    d, v = compared(a, b, 1, PerRequest(list(zip(a, b, strict=True))), math.inf).contrast()
    known = (v > 0) & np.isfinite(v)
    z = np.where(known, d, 0.0) / np.sqrt(np.where(known, v, 1.0))
    return np.asarray(np.where(np.abs(z) > _NAIVE_Z, np.inf, 0.0))


def _added(strata: Strata) -> Slices:
    return Slices(np.sum([item.n for item in strata], axis=0), np.sum([item.y for item in strata], axis=0))
