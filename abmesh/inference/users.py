"""What a typical user meets, from slices of users: weights that no busy user can dominate. Pure.

Called by :mod:`controller.decision.users`. A slice holds the users whose hash falls in it, so one who sends a third of
all requests is most of its slice. A mean of the slices' rates with equal weights still gives that user 1/50, which is
two percentage points where everything fails for a probe. So two things are done, by requests alone:

1. A slice whose requests are far above what is usual is left out; see :func:`~abmesh.inference.busiest.usual`.
2. The others are weighted by ``min(N_b, M)`` with M the median: as precise as a sum over all requests where slices are
   alike, and no slice counts for more than a typical one.

Compared in simulations with the truth, the mean over users of each user's own rate, this had the smallest error among
the request-weighted rate, the mean of slice rates, Huber's weights without leaving out, leaving out alone, and a
trimmed mean, which is biased wherever most slices have no event.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.busiest import median
from abmesh.inference.numbers import Slices


def typical(arm: Slices, kept: NDArray[np.bool_]) -> Slices:
    """Slices as they count: weights ``w_b = min(N_b, M)`` at each slice's own rate, and none where one is left out.

    The weights are scaled so that their sum is the number of requests that say as much in slices of equal rates,
    ``(sum w)^2 / sum(w^2 / N)``: then a variance per request is the same as without weights, whatever the sizes of the
    slices, and can be pooled over variants of different sizes. It is at most the number of requests.

    Args:
        arm: a variant's slices, shape (..., B).
        kept: those that count, same shape; see :func:`~abmesh.inference.busiest.usual`.
    """
    kept = kept & (arm.n > 0)
    most = np.exp(median(np.log(np.where(kept, arm.n, 1.0)), kept))
    n = np.where(kept, np.minimum(arm.n, most), 0.0)
    spread = (n**2 / np.where(kept, arm.n, 1.0)).sum(axis=-1, keepdims=True)
    n = n * n.sum(axis=-1, keepdims=True) / np.where(spread > 0, spread, 1.0)
    return Slices(n, np.where(kept, arm.y / np.where(kept, arm.n, 1.0), 0.0) * n)
