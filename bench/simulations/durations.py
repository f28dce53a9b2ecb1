"""Simulated durations: lognormal, with users who are slow throughout, and through Envoy's bins. Pure.

Used by :mod:`bench.simulations.latency_guardrails`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from abmesh.inference.histogram import Bins
from abmesh.inference.numbers import Floats
from bench.simulations.users import Traffic

MEDIAN_MS: Final = 80.0
SIGMA: Final = 0.6


@dataclass(frozen=True, slots=True)
class Durations:
    """How long requests take.

    Attributes:
        between: share of the log variance that is between users, 0..1.
        factor: the candidate's durations over the control's.
    """

    between: float
    factor: float

    def of(self, rng: np.random.Generator, traffic: Traffic) -> Floats:
        """One duration a request, in milliseconds."""
        users = rng.normal(0.0, SIGMA * math.sqrt(self.between), traffic.population.users)
        requests = rng.normal(0.0, SIGMA * math.sqrt(1 - self.between), traffic.user.size)
        factor = np.where(traffic.candidate, self.factor, 1.0)
        return np.asarray(MEDIAN_MS * np.exp(users[traffic.user] + requests) * factor[traffic.user])


@dataclass(frozen=True, slots=True)
class Binned:
    """Durations as Envoy keeps them: bins with two significant digits, values spread evenly inside."""

    lower: Floats
    width: Floats

    @classmethod
    def of(cls, values: Floats) -> Binned:
        """Values above 0, in milliseconds."""
        width = 10.0 ** (np.floor(np.log10(values)) - 1)
        return cls(np.floor(values / width) * width, width)

    def above(self, limit: float) -> Floats:
        """How much of each value's bin lies above a limit, 0..1."""
        return np.asarray(np.clip((self.lower + self.width - limit) / self.width, 0.0, 1.0))

    def bins(self) -> Bins:
        """As a histogram."""
        keys, counts = np.unique(np.stack([self.lower, self.width], axis=1), axis=0, return_counts=True)
        return {(float(lower), float(width)): int(count) for (lower, width), count in zip(keys, counts, strict=True)}
