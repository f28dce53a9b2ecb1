"""How uncertain a rate is whose users repeat: variances between slices of users. Pure.

Called by :mod:`controller.decision.variances`. A slice holds the users whose hash falls in it, so slices are
independent although requests are not. The variances are the delta method's for a ratio of two sums: Deng, Knoblich and
Lu, *Applying the Delta Method in Metric Analytics* (KDD 2018, arXiv 1803.06336).
"""

from __future__ import annotations

import numpy as np

from abmesh.inference.busiest import effective_slices
from abmesh.inference.numbers import Floats, Slices

OWN_RATE_FROM = 30.0
"""Effective events from which a variant's slices are compared with its own rate instead of the common one."""


def rate(arm: Slices) -> Floats:
    """``sum Y / sum N``, shape (...); 0 where there are no requests."""
    n = arm.total_n
    return np.asarray(np.where(n > 0, arm.total_y / np.where(n > 0, n, 1.0), 0.0))


def request_variance(a: Slices, b: Slices, *, own_from: float = OWN_RATE_FROM, share: bool = False) -> Floats:
    """Variance per request, pooled over both variants' slices, which under the null have it in common.

    ``s2 = B/(B-1) (sum_A (Y - R N)^2 + sum_B (Y - R N)^2) / (n_A + n_B)``. The squared standard error of a variant's
    rate is ``s2 / n``, and that of their difference ``s2 (1/n_A + 1/n_B)``.

    R is the pooled rate; for a variant whose own rate is known well enough, its own, because a true difference would
    otherwise look like spread between slices, and the error would never shrink below it. Well enough means
    ``n R_own^2 / s2 >= own_from``, with s2 around own rates: a relative standard error of ``1/sqrt(own_from)``. For
    shares of events that number is their effective count, ``events / (phi (1 - R))`` with the design effect phi; for
    durations it is effective requests over the squared coefficient of variation. It has no unit and serves both.

    Args:
        a: the control's slices, shape (..., B).
        b: the candidate's, same number of slices.
        own_from: effective events from which a variant's own rate is taken; infinity never takes it.
        share: whether the metric is a share of requests. It cannot have less variance than requests that are
            independent, ``R (1 - R)``: without that floor, slices without any event would prove anything.

    Returns:
        Shape (...), in the metric's unit squared; 0 without requests, infinite with a single slice.
    """
    n_a, n_b = a.total_n, b.total_n
    total = n_a + n_b
    some = total > 0
    safe = np.where(some, total, 1.0)
    common = np.where(some, (a.total_y + b.total_y) / safe, 0.0)
    unbiased = _unbiased(a)
    own_a, own_b = rate(a), rate(b)
    around_a, around_b = _squares(a, own_a), _squares(b, own_b)
    s2_own = unbiased * (around_a + around_b) / safe
    squares = np.where(_known(n_a, own_a, s2_own, own_from), around_a, _squares(a, common))
    squares = squares + np.where(_known(n_b, own_b, s2_own, own_from), around_b, _squares(b, common))
    s2 = np.where(some, unbiased * squares / safe, 0.0)
    if share:
        s2 = np.maximum(s2, np.clip(common * (1 - common), 0.0, None))
    return np.asarray(s2 if a.n.shape[-1] > 1 else np.where(some, np.inf, s2))


def own_variance(arm: Slices) -> Floats:
    """Variance per request of one variant alone, around its own rate: ``B/(B-1) sum (Y - R N)^2 / n``; shape (...).

    It is right for many users only: with few of them it is too small by chance exactly when the rate is.

    Args:
        arm: its slices, shape (..., B).
    """
    n = arm.total_n
    return np.asarray(_unbiased(arm) * _squares(arm, rate(arm)) / np.where(n > 0, n, 1.0))


def freedom(a: Slices, b: Slices) -> Floats:
    """Degrees of freedom of :func:`request_variance`, by Satterthwaite's approximation; shape (...), at least 1.

    Each variant's slices have ``e - 1``, with the effective number e of
    :func:`~abmesh.inference.busiest.effective_slices`, weighted by the variants' shares f of requests:
    ``1 / (f_A^2 / (e_A - 1) + f_B^2 / (e_B - 1))``, twice as many at 50% as with one variant only.

    Args:
        a: the control's slices, shape (..., B).
        b: the candidate's.
    """
    n_a, n_b = a.total_n, b.total_n
    total = n_a + n_b
    safe = np.where(total > 0, total, 1.0)
    left_a, left_b = (np.maximum(effective_slices(arm.n) - 1, 0.1) for arm in (a, b))
    doubt = (n_a / safe) ** 2 / left_a + (n_b / safe) ** 2 / left_b
    most = float(max(a.n.shape[-1] - 1, 1))
    return np.asarray(np.where(total > 0, np.maximum(1 / np.where(total > 0, doubt, 1.0), 1.0), most))


def design_effect(s2: Floats | float, share: Floats | float) -> Floats:
    """How many requests are worth one independent request: ``max(1, s2 / (R (1 - R)))``; arguments broadcast.

    Args:
        s2: variance per request, from :func:`request_variance`.
        share: the rate R of the events, 0..1; at 0 or 1 the result is 1.
    """
    r = np.asarray(share, dtype=np.float64)
    independent = r * (1 - r)
    inner = independent > 0
    return np.asarray(np.where(inner, np.maximum(1.0, np.asarray(s2) / np.where(inner, independent, 1.0)), 1.0))


def _squares(arm: Slices, around: Floats) -> Floats:
    return np.asarray(((arm.y - around[..., None] * arm.n) ** 2).sum(axis=-1))


def _unbiased(arm: Slices) -> float:
    slices: int = arm.n.shape[-1]
    return slices / max(slices - 1, 1)


def _known(n: Floats, own: Floats, s2: Floats, own_from: float) -> Floats:
    return np.asarray(
        (s2 > 0) & (n * own**2 >= own_from * s2) if np.isfinite(own_from) else np.zeros_like(n, dtype=bool)
    )
