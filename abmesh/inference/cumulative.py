"""Histograms laid out for asking about many limits at once. Pure; called by the comparisons of quantiles.

Values inside a bin are taken to be spread evenly, as in :mod:`abmesh.inference.histogram`, whose quantile is faster for
a single question; a test keeps both in agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.inference.histogram import Bins
from abmesh.inference.numbers import Floats

_SMALLEST = 1e-12
"""The share 0 is that of the smallest value, not of an empty bin below it."""


@dataclass(frozen=True, slots=True)
class Cumulative:
    """Histograms of several groups over the same bins, laid out for asking about many limits at once.

    Attributes:
        lower: lower bounds in milliseconds, rising, shape (K,).
        width: of each bin, same shape.
        before: how many values of each group lie in earlier bins, shape (G, K + 1); the last entry is the group's size.
    """

    lower: Floats
    width: Floats
    before: Floats

    @classmethod
    def of(cls, groups: Sequence[Bins]) -> Cumulative:
        """From the histograms of G groups."""
        keys = sorted({key for group in groups for key, count in group.items() if count})
        place = {key: index for index, key in enumerate(keys)}
        counts = np.zeros((len(groups), len(keys)))
        for row, group in zip(counts, groups, strict=True):
            for key, count in group.items():
                if count:
                    row[place[key]] = count
        bounds = np.array(keys, dtype=np.float64).reshape(len(keys), 2)
        return cls(bounds[:, 0], bounds[:, 1], _before(counts))

    @property
    def sizes(self) -> Floats:
        """How many values each group holds, shape (G,)."""
        return self.before[:, -1]

    @property
    def whole(self) -> Cumulative:
        """The sum of all groups, as one."""
        return Cumulative(self.lower, self.width, self.before.sum(axis=0, keepdims=True))

    def exceeding(self, limits: Floats) -> Floats:
        """How many values of each group are above limits of any shape (...), in milliseconds; shape (..., G)."""
        at = np.asarray(limits, dtype=np.float64)
        if not self.lower.size:
            return np.zeros((*at.shape, self.before.shape[0]))
        bin_ = np.searchsorted(self.lower, at, side="right") - 1
        held = np.maximum(bin_, 0)
        width = self.width[held]
        part = np.where(width > 0, np.clip((at - self.lower[held]) / np.where(width > 0, width, 1.0), 0.0, 1.0), 1.0)
        inside = self.before[:, held + 1] - self.before[:, held]
        below = np.where(bin_ >= 0, self.before[:, held] + inside * part, 0.0)
        if not at.ndim:
            return np.asarray(self.before[:, -1] - below)
        return np.asarray(np.moveaxis(self.before[:, -1].reshape(-1, *[1] * at.ndim) - below, 0, -1))

    def quantile(self, share: float) -> float | None:
        """The value that a share (0..1) of all groups' values does not exceed; None without values."""
        before = self.before.sum(axis=0)
        if not before[-1] > 0:
            return None
        wanted = max(share, _SMALLEST) * before[-1]
        bin_ = min(int(np.searchsorted(before[1:], wanted, side="left")), len(self.lower) - 1)
        part = (wanted - before[bin_]) / (before[bin_ + 1] - before[bin_])
        return float(self.lower[bin_] + self.width[bin_] * min(max(part, 0.0), 1.0))


def _before(counts: Floats) -> Floats:
    return np.concatenate([np.zeros((counts.shape[0], 1)), np.cumsum(counts, axis=1)], axis=1)
