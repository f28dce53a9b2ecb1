"""What the e-values of counts have in common: a grid of weighted alternatives, and sums in logarithms. Pure.

Called by :mod:`abmesh.inference.counts` and :mod:`abmesh.inference.difference`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from abmesh.inference.numbers import Floats, Side

_WIDEST = 4.0
"""The largest shift, in units of tau. A larger effect is found as well: the largest shift gains from it, too."""

_FINEST = 1e-5
"""The smallest shift, as a part of the largest."""

_POINTS = 40
"""Shifts on each side."""

FAR = 0.25
"""Part of the weight that is given to far shifts, where they are looked for as well."""


@lru_cache(maxsize=64)
def shifts(side: Side, tau: float, far: float | None = None) -> tuple[Floats, Floats]:
    """Alternatives as shifts away from the null value, and the logarithms of their weights.

    A normal density with standard deviation ``tau``, or its half on one side, on a geometric grid. Evenly spaced shifts
    could not tell the null from anything closer than half a step, however much data there is; geometric ones keep the
    ratio between neighbours, so some shift fits every amount of data.

    Args:
        side: GREATER has positive shifts only, LESS negative ones, TWO_SIDED both.
        tau: standard deviation of the shifts that are looked for, above 0.
        far: a larger one, for :data:`FAR` of the weight: a tenfold rate is many times ``tau`` away, and would be found
            late. Costs small shifts no more than ``ln(1 / (1 - FAR))``, 0.29, of the logarithm. None: no such part.

    Returns:
        Shifts and logarithms of weights, each of shape (J,); the weights sum to 1.
    """
    magnitudes = _WIDEST * (far or tau) * np.geomspace(_FINEST, 1.0, _POINTS)
    log_density = _log_half_normal(magnitudes, tau)
    if far is not None:
        parts = (log_density + np.log1p(-FAR), _log_half_normal(magnitudes, far) + np.log(FAR))
        log_density = np.logaddexp(*parts)
    # The distance between neighbours of a geometric grid grows with the shift itself.
    log_weights = np.log(magnitudes) + log_density
    if side is Side.TWO_SIDED:
        points = np.concatenate([-magnitudes[::-1], magnitudes])
        log_weights = np.concatenate([log_weights[::-1], log_weights])
    else:
        points = magnitudes if side is Side.GREATER else -magnitudes
    log_weights = log_weights - log_sum_exp(log_weights)
    points.setflags(write=False)
    log_weights.setflags(write=False)
    return points, log_weights


def _log_half_normal(magnitudes: Floats, tau: float) -> Floats:
    """Logarithm of the density, up to a constant that is the same for every ``tau``."""
    return np.asarray(-0.5 * (magnitudes / tau) ** 2 - np.log(tau))


def log_sum_exp(values: Floats) -> Floats:
    """Logarithm of the sum of exponentials over the last axis, for finite values; shape (..., J) -> (...)."""
    highest = values.max(axis=-1)
    return np.asarray(highest + np.log(np.exp(values - highest[..., None]).sum(axis=-1)))
