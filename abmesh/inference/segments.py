"""Simpson's paradox: does the whole say what its parts say? Pure; called by the reports and by the controller.

Parts are segments of users, or the stages or days of a ramp. They are looked at afterwards and there are many of them,
so nothing here declares a winner: it warns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Part = tuple[float, float, float, float]
"""Requests and the metric's sum of the control, then of the candidate."""

MIN_PART = 100.0
"""Fewest requests of each variant with which a part tells a direction."""

MATERIAL = 0.05
"""Smallest distance between the pooled and the stratified difference, as a part of the control's rate."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """The whole points one way and its parts the other (Simpson's paradox).

    Attributes:
        pooled: the candidate's rate minus the control's over everything added up.
        stratified: the same, compared within parts and then averaged with the weights ``n_A n_B / (n_A + n_B)``.
    """

    pooled: float
    stratified: float


def simpson(parts: Sequence[Part], *, min_part: float = MIN_PART, material: float = MATERIAL) -> Reversal | None:
    """Find a reversal between the whole and its parts.

    It is one if the pooled difference and the one compared within parts have opposite signs and are apart by a material
    part of the control's rate. Parts in which a variant has fewer than ``min_part`` requests are left out: what they
    say is chance. A majority of parts that point against a whole whose stratified difference agrees with it is no
    reversal: where nothing differs, that happens by chance every few experiments.

    Args:
        parts: of the whole, in any order.
        min_part: fewest requests of each variant.
        material: smallest distance, as a part of the control's pooled rate.

    Returns:
        None if there is none, or fewer than two parts are large enough.
    """
    heard = [part for part in parts if min(part[0], part[2]) >= max(min_part, 1.0)]
    if len(heard) < 2:
        return None
    n_a, y_a, n_b, y_b = np.array(heard, dtype=np.float64).T
    base = float(y_a.sum() / n_a.sum())
    pooled = float(y_b.sum() / n_b.sum()) - base
    differences = y_b / n_b - y_a / n_a
    weights = n_a / (n_a + n_b) * n_b
    stratified = float((weights * differences).sum() / weights.sum())
    if not (pooled < 0 < stratified or stratified < 0 < pooled) or abs(pooled - stratified) < material * abs(base):
        return None
    return Reversal(pooled, stratified)
