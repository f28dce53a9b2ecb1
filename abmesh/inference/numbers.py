"""The types that all methods share: arrays of counts, sides of a hypothesis, intervals. Pure.

Arrays are float64. A leading axis, where a docstring has ``...``, holds whatever is computed at once:
simulated runs, looks, or the moments at which harm may have begun. Counts may be fractions, because counts of users who
repeat are divided by their design effect first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Side(StrEnum):
    """Which alternative an e-value gathers evidence for."""

    TWO_SIDED = "two-sided"
    GREATER = "greater"
    LESS = "less"


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of plausible values; a one-sided one is infinite, or at the end of the scale, on the other side."""

    lower: float
    upper: float

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper


@dataclass(frozen=True, slots=True)
class Slices:
    """One variant's sums over slices of its users, in one stratum (a stage of a ramp).

    Attributes:
        n: requests in each slice, shape (..., B).
        y: the metric's sum in each slice, same shape: events, or milliseconds.
    """

    n: Floats
    y: Floats

    @property
    def total_n(self) -> Floats:
        """Requests over all slices, shape (...)."""
        return np.asarray(self.n.sum(axis=-1))

    @property
    def total_y(self) -> Floats:
        """The metric's sum over all slices, shape (...)."""
        return np.asarray(self.y.sum(axis=-1))


def always_valid_p(log_e: float) -> float:
    """The always-valid p-value of an e-value: ``min(1, 1/E)``, from its logarithm."""
    return math.exp(-log_e) if log_e > 0 else 1.0
