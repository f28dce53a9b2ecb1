"""A share of requests, the candidate's against the control's or a limit: errors, refusals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.combined import combine
from abmesh.inference.counts import log_e_difference, log_e_ratio, log_e_share
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.variance import design_effect, request_variance
from controller.decision.comparison import Sums, Values, crowding
from controller.decision.rollout_evidence import RolloutEvidence
from controller.evidence.strata import metric_slices

_LEAST = -1 + 1e-9
"""A rate cannot fall by more than all of it, whose logarithm is not finite."""


@dataclass(frozen=True, slots=True)
class ShareComparison:
    """A :class:`~controller.decision.comparison.Comparison` of shares.

    Attributes:
        sums: events and requests.
        phi: each stratum's design effect, shape (strata,).
    """

    sums: Sums
    phi: Floats

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric) -> ShareComparison:
        """The requests that a metric counts among those that it is of."""
        phi = []
        for control, candidate in evidence.arms():
            a, b = (metric_slices(arm, evidence.slices, metric) for arm in (control, candidate))
            pooled = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
            between = float(design_effect(request_variance(a, b, share=True), pooled))
            phi.append(max(between, crowding(a), crowding(b)))
        return cls(Sums.of(evidence, metric), np.array(phi))

    @property
    def values(self) -> Values:
        """See the protocol."""
        return self.sums.values(float(self.phi[-1]))

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        return self.sums.moment(row)

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        events, requests = (self.sums.y_b / self.phi).sum(axis=-1), (self.sums.n_b / self.phi).sum(axis=-1)
        return log_e_share(events, requests, limit, side=side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        y_a, n_a, y_b, n_b = (array / self.phi for array in self._arrays())
        if relative or by == 0:
            # Without a margin both ask the same, and the ratio's test is the stronger one for rare events.
            share = n_b / np.maximum(n_a + n_b, 1e-300)
            return log_e_ratio(y_a, y_b, share, math.log1p(max(by, _LEAST)), side=side)
        return log_e_difference(y_a, n_a, y_b, n_b, by, side=side)

    def contrast(self) -> tuple[Floats, Floats]:
        """Difference of the shares and its squared standard error, each of shape (1 + moments,)."""
        y_a, n_a, y_b, n_b = self._arrays()
        rate = (y_a + y_b) / np.maximum(n_a + n_b, 1)
        return combine(n_a, y_a, n_b, y_b, self.phi * rate * (1 - rate))

    def grown(self, factor: float) -> ShareComparison:
        """See the protocol."""
        return ShareComparison(self.sums.grown(factor), self.phi)

    def _arrays(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.sums.y_a, self.sums.n_a, self.sums.y_b, self.sums.n_b
