"""Slices of users so busy that they would speak for all others, and how many slices speak at all. Pure.

A user who sends a tenth of the traffic is one user, whatever his requests say. His slice makes every estimate of how
users differ too small where he is rare in it, and too large where he is most of it. So methods are also run without
the busiest slices. Which ones those are depends on requests alone: were it chosen by what came of the requests, the
choice would be a test of its own.

Used by :mod:`abmesh.inference.users`, :mod:`controller.decision.slice_rows` and, for groups of slices, by
:mod:`controller.decision.latencies`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats

FACTOR: Final = 1.25
"""A slice with at most so many times the median of the requests is never left out."""

DEVIATIONS: Final = 3.5
"""Nor is one within so many robust standard deviations of the logarithms."""

_NORMAL: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


MOST: Final = 0.2
"""Largest part of the slices with requests that is left out as dominant."""


def usual(n: Floats) -> NDArray[np.bool_]:
    """Which slices have requests, and not far more than most: at most ``M max(1.25, exp(3.5 s))``.

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
    middle = median(logs, some)
    deviation = np.maximum(_NORMAL * median(np.abs(logs - middle), some), np.exp(-middle / 2))
    return np.asarray(some & (logs <= middle + np.maximum(np.log(FACTOR), DEVIATIONS * deviation)))


def dominant(n: Floats, *, least: int = 0) -> NDArray[np.bool_]:
    """Which slices to leave out: those that are not :func:`usual`, the busiest first, and at most :data:`MOST` of all.

    Args:
        n: requests in each slice, shape (..., B).
        least: how many are left out in any case, as far as there are any with requests.

    Returns:
        Same shape.
    """
    some = n > 0
    out = some & ~usual(n)
    rank = np.argsort(np.argsort(-n, axis=-1, kind="stable"), axis=-1, kind="stable")
    out &= rank < np.floor(MOST * np.count_nonzero(some, axis=-1))[..., None]
    return np.asarray((out | (rank < least)) & some)


def effective_slices(n: Floats) -> Floats:
    """How many equally busy slices would be as uneven: ``(sum n)^2 / sum n^2`` (Kish 1965), shape (...); 0 of none.

    Args:
        n: requests in each slice, shape (..., B).
    """
    squares = (n**2).sum(axis=-1)
    return np.asarray(np.where(squares > 0, n.sum(axis=-1) ** 2 / np.where(squares > 0, squares, 1.0), 0.0))


def needed_slices(slices: int, fewest: int) -> float:
    """Fewest effective slices that variances between users are taken from.

    Args:
        slices: that there are.
        fewest: wanted where there are many.
    """
    return min(float(fewest), slices / 2)


def median(values: Floats, some: NDArray[np.bool_]) -> Floats:
    """Median over some of the last axis, shape (..., 1); 0 of none."""
    found = np.sort(np.where(some, values, np.inf), axis=-1)
    count = some.sum(axis=-1, keepdims=True)
    low, high = (np.take_along_axis(found, np.maximum(at, 0), axis=-1) for at in ((count - 1) // 2, count // 2))
    # Of no values at all, the first one stands for the absent ones.
    return np.asarray(np.where(count > 0, (np.where(count > 0, low, 0.0) + np.where(count > 0, high, 0.0)) / 2, 0.0))
