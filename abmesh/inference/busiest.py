"""Slices of users so busy that they would speak for all others, and how many slices speak at all. Pure.

A user who sends a tenth of the traffic is one user, whatever his requests say. His slice makes every estimate of how
users differ too small where he is rare in it, and too large where he is most of it. So methods are also run without
the busiest slices. Which ones those are depends on requests alone: were it chosen by what came of the requests, the
choice would be a test of its own.

Used by :mod:`controller.decision.slice_rows` and, for groups of slices, by :mod:`controller.decision.latencies`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats

DOMINANT: Final = 2.0
"""A slice dominates that has more requests than this many times the mean of those with fewer."""

MOST: Final = 0.2
"""Largest part of the slices with requests that is left out as dominant."""


def dominant(n: Floats, *, least: int = 0) -> NDArray[np.bool_]:
    """Which slices to leave out.

    The busiest first: each slice that has more than :data:`DOMINANT` times the mean of all slices with fewer requests,
    until one does not, or until :data:`MOST` of those with requests are out.

    Args:
        n: requests in each slice, shape (..., B).
        least: how many are left out in any case, as far as there are any with requests.

    Returns:
        Same shape.
    """
    slices = n.shape[-1]
    order = np.argsort(-n, axis=-1, kind="stable")
    falling = np.take_along_axis(n, order, axis=-1)
    seen = np.count_nonzero(n, axis=-1)[..., None]
    place = np.arange(slices)
    left = np.maximum(seen - place - 1, 0)
    mean = (falling.sum(axis=-1, keepdims=True) - np.cumsum(falling, axis=-1)) / np.maximum(left, 1)
    out = np.logical_and.accumulate((falling > DOMINANT * mean) & (left > 0), axis=-1)
    out &= place < np.floor(MOST * seen)
    out |= place < least
    out &= falling > 0
    found = np.zeros(n.shape, dtype=bool)
    np.put_along_axis(found, order, out, axis=-1)
    return found


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
