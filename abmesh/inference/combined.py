"""Two variants compared stratum by stratum, from sums and known variances. Pure.

Called by the comparisons in :mod:`controller.decision`. All strata are weighted by Mantel and Haenszel's
``w_s = n_A n_B / (n_A + n_B)``, which are the best weights where the difference is the same in every stratum. Rates may
drift from stratum to stratum, because no two strata are ever compared with each other.
"""

from __future__ import annotations

import numpy as np

from abmesh.inference.numbers import Floats


def combine(n_a: Floats, y_a: Floats, n_b: Floats, y_b: Floats, s2: Floats) -> tuple[Floats, Floats]:
    """Estimate of ``R_B - R_A`` and its squared standard error.

    ``d = sum w_s d_s / sum w_s`` and ``v = sum w_s^2 s2_s (1/n_A + 1/n_B) / (sum w_s)^2``. For a margin, move the
    control first.

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


def standardised(n_a: Floats, y_a: Floats, n_b: Floats, y_b: Floats) -> tuple[float, float] | None:
    """Both rates as they would be with the same mix of strata: ``sum w_s R_s / sum w_s``, the control's first.

    Their difference is the estimate of :func:`combine`.

    Args:
        n_a: the control's requests in each stratum, shape (S,).
        y_a: the control's sums.
        n_b: the candidate's requests.
        y_b: the candidate's sums.

    Returns:
        None where no stratum has requests of both.
    """
    both = (n_a > 0) & (n_b > 0)
    if not both.any():
        return None
    n_a, y_a, n_b, y_b = (values[both] for values in (n_a, y_a, n_b, y_b))
    weight = n_a * n_b / (n_a + n_b)
    weight = weight / weight.sum()
    return float((weight * y_a / n_a).sum()), float((weight * y_b / n_b).sum())
