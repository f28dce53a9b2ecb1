"""What a typical user meets, from slices of users: weights that no busy user can dominate. Pure.

Called by :mod:`controller.decision.users`. A slice holds the users whose hash falls in it, so one who sends a third of
all requests is most of its slice. A mean of the slices' rates with equal weights still gives that user 1/50, which is
two percentage points where everything fails for a probe. So two things are done, by requests alone:

1. A slice whose requests are far above what is usual is left out; see :func:`usual`.
2. The others are weighted by ``min(N_b, M)`` with M the median: as precise as a sum over all requests where slices are
   alike, and no slice counts for more than a typical one.

Compared in simulations with the truth, the mean over users of each user's own rate, this had the smallest error among
the request-weighted rate, the mean of slice rates, Huber's weights without leaving out, leaving out alone, and a
trimmed mean, which is biased wherever most slices have no event.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats, Slices

FACTOR: Final = 1.5
"""A slice with at most so many times the median of the requests is never left out."""

DEVIATIONS: Final = 3.5
"""Nor is one within so many robust standard deviations of the logarithms."""

_NORMAL: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def usual(n: Floats) -> NDArray[np.bool_]:
    """Which slices have requests, and not far more than most: at most ``M max(1.5, exp(3.5 s))``.

    M is the median over the slices with requests, and s the standard deviation of the logarithms, estimated by their
    median absolute deviation (Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993, who propose 3.5), but
    at least that of M independent requests, ``1 / sqrt(M)``. Of ordinary users, Pareto-distributed activity included,
    it leaves out one slice in some hundreds.

    Args:
        n: requests in each slice, shape (..., B).

    Returns:
        The same shape.
    """
    some = n > 0
    logs = np.log(np.where(some, n, 1.0))
    middle = _median(logs, some)
    deviation = np.maximum(_NORMAL * _median(np.abs(logs - middle), some), np.exp(-middle / 2))
    return np.asarray(some & (logs <= middle + np.maximum(np.log(FACTOR), DEVIATIONS * deviation)))


def typical(arm: Slices, kept: NDArray[np.bool_]) -> Slices:
    """Slices as they count: weights ``w_b = min(N_b, M)`` at each slice's own rate, and none where one is left out.

    The weights are scaled so that their sum is the number of requests that say as much in slices of equal rates,
    ``(sum w)^2 / sum(w^2 / N)``: then a variance per request is the same as without weights, whatever the sizes of the
    slices, and can be pooled over variants of different sizes. It is at most the number of requests.

    Args:
        arm: a variant's slices, shape (..., B).
        kept: those that count, same shape; see :func:`usual`.
    """
    kept = kept & (arm.n > 0)
    most = np.exp(_median(np.log(np.where(kept, arm.n, 1.0)), kept))
    n = np.where(kept, np.minimum(arm.n, most), 0.0)
    spread = (n**2 / np.where(kept, arm.n, 1.0)).sum(axis=-1, keepdims=True)
    n = n * n.sum(axis=-1, keepdims=True) / np.where(spread > 0, spread, 1.0)
    return Slices(n, np.where(kept, arm.y / np.where(kept, arm.n, 1.0), 0.0) * n)


def _median(values: Floats, some: NDArray[np.bool_]) -> Floats:
    """Median over some of the last axis, shape (..., 1); 0 of none."""
    found = np.sort(np.where(some, values, np.inf), axis=-1)
    count = some.sum(axis=-1, keepdims=True)
    low, high = (np.take_along_axis(found, np.maximum(at, 0), axis=-1) for at in ((count - 1) // 2, count // 2))
    # Of no values at all, the first one stands for the absent ones.
    return np.asarray(np.where(count > 0, (np.where(count > 0, low, 0.0) + np.where(count > 0, high, 0.0)) / 2, 0.0))
