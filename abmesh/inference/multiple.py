"""Several questions at once: p-values adjusted for how many there are. Pure.

Called by the reports: Holm's for several variants, Benjamini and Hochberg's for segments. Decisions need neither, since
a rollout has one candidate and one goal at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p-values that keep the probability of a single false discovery, in the order given.

    ``max_{i <= k} min(1, (K - i + 1) p_(i))`` for the k-th smallest of K: Holm, *A Simple Sequentially Rejective
    Multiple Test Procedure*, Scandinavian Journal of Statistics 6 (1979).

    Args:
        p: K values, 0..1; valid together however they depend on each other.
    """
    values, order = _sorted(p)
    adjusted = np.maximum.accumulate(values * np.arange(values.size, 0, -1))
    return _restored(adjusted, order)


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """p-values that keep the expected share of false discoveries among the discoveries, in the order given.

    ``min_{i >= k} min(1, K p_(i) / i)``: Benjamini and Hochberg, *Controlling the False Discovery Rate*, Journal of the
    Royal Statistical Society B 57 (1995).

    Args:
        p: K values, 0..1, independent or positively dependent.
    """
    values, order = _sorted(p)
    scaled = values * values.size / np.arange(1, values.size + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    return _restored(adjusted, order)


def _sorted(p: Sequence[float]) -> tuple[Floats, NDArray[np.intp]]:
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values are between 0 and 1; found {list(p)}")
    order = np.argsort(values, kind="stable")
    return values[order], order


def _restored(adjusted: Floats, order: NDArray[np.intp]) -> tuple[float, ...]:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return tuple(float(value) for value in result)
