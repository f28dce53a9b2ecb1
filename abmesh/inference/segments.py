"""Segments of an experiment: does the whole say what its parts say? Pure; called by the reports and by the controller.

Parts are segments of users, or the stages or days of a ramp. They are looked at afterwards and there are many of them,
so that nothing here declares a winner: it warns, and it orders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from abmesh.inference.multiple import benjamini_hochberg

Part = tuple[float, float, float, float]
"""Requests and the metric's sum of the control, then of the candidate."""

MIN_PART = 100.0
"""Fewest requests of each variant with which a part has a say about the direction."""

MATERIAL = 0.05
"""Smallest distance between the pooled and the stratified difference, as a part of the control's rate."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """The whole points one way and its parts the other (Simpson's paradox).

    Attributes:
        pooled: the candidate's rate minus the control's over everything added up.
        stratified: the same, compared within parts and then averaged with the weights ``n_A n_B / (n_A + n_B)``.
        against: parts, by their position, that point the other way than the whole.
        heard: parts with enough requests to have a say.
    """

    pooled: float
    stratified: float
    against: tuple[int, ...]
    heard: int


def simpson(parts: Sequence[Part], *, min_part: float = MIN_PART, material: float = MATERIAL) -> Reversal | None:
    """Find a reversal between the whole and its parts.

    It is one if the pooled difference and the one compared within parts have opposite signs and are apart by a material
    part of the control's rate. Parts in which a variant has fewer than ``min_part`` requests have no say: what they say
    is chance. That a majority of parts point against a whole whose stratified difference agrees with it is no reversal:
    where nothing differs, that happens by chance every few experiments.

    Args:
        parts: of the whole, in any order.
        min_part: fewest requests of each variant.
        material: smallest distance, as a part of the control's pooled rate.

    Returns:
        None if there is none, or fewer than two parts have a say.
    """
    heard = [(index, part) for index, part in enumerate(parts) if min(part[0], part[2]) >= max(min_part, 1.0)]
    if len(heard) < 2:
        return None
    n_a, y_a, n_b, y_b = np.array([part for _, part in heard], dtype=np.float64).T
    base = float(y_a.sum() / n_a.sum())
    pooled = float(y_b.sum() / n_b.sum()) - base
    differences = y_b / n_b - y_a / n_a
    weights = n_a / (n_a + n_b) * n_b
    stratified = float((weights * differences).sum() / weights.sum())
    if not (pooled < 0 < stratified or stratified < 0 < pooled) or abs(pooled - stratified) < material * abs(base):
        return None
    against = tuple(index for (index, _), d in zip(heard, differences, strict=True) if d * pooled < 0)
    return Reversal(pooled, stratified, against, len(heard))


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One segment's comparison, for reading only.

    Attributes:
        name: of the segment.
        n_a: the control's requests.
        n_b: the candidate's.
        rate_a: the control's rate; 0 without requests.
        rate_b: the candidate's.
        d: difference of the rates.
        standard_error: of ``d``; infinite if it is unknown.
        p: two-sided, for one look.
        adjusted: p after Benjamini and Hochberg, over all segments of the table.
    """

    name: str
    n_a: float
    n_b: float
    rate_a: float
    rate_b: float
    d: float
    standard_error: float
    p: float
    adjusted: float


def segment_table(segments: Mapping[str, Part], variances: Mapping[str, float]) -> list[SegmentRow]:
    """Compare every segment, with p-values adjusted for their number; in the order of the segments.

    The adjusted p-values control the share of false discoveries among the segments that are pointed at (Benjamini and
    Hochberg 1995), for one look at a finished experiment. They suggest what to try next and decide nothing.

    Args:
        segments: requests and sums by segment.
        variances: squared standard error of each segment's difference, such as that of
            :func:`~abmesh.inference.means.stratified`.
    """
    found = []
    for name, (n_a, y_a, n_b, y_b) in segments.items():
        rate_a, rate_b = (y_a / n_a if n_a > 0 else 0.0), (y_b / n_b if n_b > 0 else 0.0)
        v = variances[name] if n_a > 0 and n_b > 0 else math.inf
        known = 0 < v < math.inf
        error = math.sqrt(v) if known else math.inf
        d = rate_b - rate_a if n_a > 0 and n_b > 0 else 0.0
        p = 2 * float(ndtr(-abs(d) / error)) if known else 1.0
        found.append((name, n_a, n_b, rate_a, rate_b, d, error, p))
    adjusted = benjamini_hochberg([row[-1] for row in found])
    return [SegmentRow(*row, float(value)) for row, value in zip(found, adjusted, strict=True)]
