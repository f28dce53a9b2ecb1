"""Differences between two variants, combined over strata from sums and known variances. Pure.

What :func:`~abmesh.inference.means.stratified` does from slices, for callers who know each stratum's variance per
request already and have sums that come without slices: what was counted since a moment, or would be counted.
"""

from __future__ import annotations

import numpy as np

from abmesh.inference.numbers import Floats


def combine(
    n_a: Floats,
    y_a: Floats,
    n_b: Floats,
    y_b: Floats,
    s2: Floats,
) -> tuple[Floats, Floats]:
    """Estimate of ``R_B - R_A`` and its squared standard error.

    ``d = sum w_s d_s / sum w_s`` with ``w_s = n_A n_B / (n_A + n_B)`` (Mantel and Haenszel's weights), and
    ``v = sum w_s^2 s2_s (1/n_A + 1/n_B) / (sum w_s)^2``. For a margin, move the control first.

    Args:
        n_a: the control's requests in each stratum, shape (..., S).
        y_a: the control's sums.
        n_b: the candidate's requests.
        y_b: the candidate's sums.
        s2: variance per request in each stratum, shape (S,) or as above.

    Returns:
        Both of shape (...); 0 and infinity where no stratum has requests of both.
    """
    both = (n_a > 0) & (n_b > 0)
    a, b = np.where(both, n_a, 1.0), np.where(both, n_b, 1.0)
    weight = np.where(both, a * b / (a + b), 0.0)
    difference = y_b / b - y_a / a
    squared = s2 * (1 / a + 1 / b)
    total = weight.sum(axis=-1)
    some = total > 0
    safe = np.where(some, total, 1.0)
    d = np.where(some, (weight * difference).sum(axis=-1) / safe, 0.0)
    v = np.where(some, (weight**2 * np.where(both, squared, 0.0)).sum(axis=-1) / safe**2, np.inf)
    return np.asarray(d), np.asarray(v)
