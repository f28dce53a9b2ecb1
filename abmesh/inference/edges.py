"""How much requests above an edge, a latency at which two variants are compared, resemble each other. Pure.

Called by :mod:`controller.decision.quantiles`.
"""

from __future__ import annotations

import numpy as np

from abmesh.inference.numbers import Floats

_LEAST_BELOW = 0.25
"""Smallest share below an edge that a deflator assumes."""


def edge_design_effect(above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats) -> Floats:
    """How many requests are worth one independent request, at one edge.

    ``phi = max(1, sum_arms [sum_g (Y_g - R N_g)^2 / (1 - sum_g (N_g / N)^2)] / sum_arms N R (1 - R))`` with each
    variant's own share R: the variance between groups over that of as many independent requests. With own shares, a
    difference between variants does not look like one between users. The divisor ``1 - sum (N_g/N)^2`` is what fitting
    R leaves of the expected squares when every request adds the same variance; for G equal groups it is the usual
    ``(G - 1) / G``, and empty groups change nothing.

    Args:
        above_a: the control's requests above the edge in each of its groups, shape (..., G).
        n_a: the control's requests in each group, same.
        above_b: the candidate's requests above, shape (..., H).
        n_b: the candidate's requests, same.

    Returns:
        Shape (...); 1 where no variant has two groups and requests on both sides of the edge.
    """
    (spread_a, plain_a, _), (spread_b, plain_b, _) = _dispersion(above_a, n_a), _dispersion(above_b, n_b)
    return _ratio(spread_a + spread_b, plain_a + plain_b)


def level_deflator(above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats) -> Floats:
    """What one variant's counts at a limit are divided by before they are tested: ``phi nu / (nu - 2)``.

    The design effect phi is an estimate with nu degrees of freedom (Satterthwaite's, about twice the groups at 50%).
    Evidence is proportional to ``1/phi``, whose expectation is too large by ``nu / (nu - 2)``, the mean of an inverse
    chi-squared variable.

    Args:
        above_a: as for :func:`edge_design_effect`, like the others.
        n_a: shape (..., G).
        above_b: shape (..., H); no groups if only one variant is known.
        n_b: shape (..., H).

    Returns:
        Shape (...), at least 1.
    """
    (spread_a, plain_a, nu_a), (spread_b, plain_b, nu_b) = _dispersion(above_a, n_a), _dispersion(above_b, n_b)
    plain = plain_a + plain_b
    doubt = plain_a**2 / nu_a + plain_b**2 / nu_b
    nu = np.where(doubt > 0, plain**2 / np.where(doubt > 0, doubt, 1.0), np.inf)
    known = np.isfinite(nu)
    safe = np.where(known, nu, 4.0)
    unsure = np.where(known, np.maximum(safe, 3.0) / np.maximum(safe - 2, 1.0), 1.0)
    return np.asarray(_ratio(spread_a + spread_b, plain) * unsure)


def edge_deflator(above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats) -> Floats:
    """What counts above one edge are divided by before they are compared: ``phi (1 - R) nu / (nu - 2)``.

    As :func:`level_deflator`, with one more correction: the comparison takes counts for rare events, whose variance is
    their expectation; a share R of all requests varies less, by ``1 - R``.

    Args:
        above_a: as for :func:`edge_design_effect`, like the others.
        n_a: shape (..., G).
        above_b: shape (..., H).
        n_b: shape (..., H).

    Returns:
        Shape (...), above 0.
    """
    total = n_a.sum(axis=-1) + n_b.sum(axis=-1)
    share = (above_a.sum(axis=-1) + above_b.sum(axis=-1)) / np.where(total > 0, total, 1.0)
    # Where nearly all are above, two variants differ in what is below, which a comparison of counts above cannot use.
    return np.asarray(level_deflator(above_a, n_a, above_b, n_b) * np.maximum(1 - share, _LEAST_BELOW))


def _ratio(spread: Floats, plain: Floats) -> Floats:
    """``max(1, spread / plain)`` of :func:`_dispersion`; 1 where nothing is known."""
    some = plain > 0
    return np.asarray(np.where(some, np.maximum(1.0, spread / np.where(some, plain, 1.0)), 1.0))


def _dispersion(above: Floats, n: Floats) -> tuple[Floats, Floats, Floats]:
    """Squared deviations between groups, what independent requests would have, and degrees of freedom.

    Args:
        above: one variant's requests above an edge in each group, shape (..., G).
        n: its requests in each group, same.

    Returns:
        Shape (...) each.
    """
    total = n.sum(axis=-1)
    safe = np.where(total > 0, total, 1.0)
    share = above.sum(axis=-1) / safe
    squares = ((above - share[..., None] * n) ** 2).sum(axis=-1)
    unequal = np.broadcast_to(((n / safe[..., None]) ** 2).sum(axis=-1), share.shape)
    # An arm whose requests are all on one side, or all in one group, must not dilute what the other one shows.
    known = (share > 0) & (share < 1) & (unequal < 1)
    left = np.where(known, 1 - unequal, 1.0)
    spread = np.where(known, squares / left, 0.0)
    freedom = np.where(known, left / np.where(known, unequal, 1.0), 1.0)
    return spread, np.where(known, total * share * (1 - share), 0.0), freedom
