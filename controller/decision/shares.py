"""A share of requests, the candidate's against the control's or a limit: errors, refusals. Pure.

Called by :func:`controller.decision.comparisons.compare`, by the emergency stop and by the reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.combined import combine
from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.difference import log_e_difference
from abmesh.inference.numbers import Floats, Side, Slices
from controller.decision.comparison import StratifiedSums, Values
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.variances import share_design_effect
from controller.evidence.strata import metric_slices

_LEAST = -1 + 1e-9
"""A rate cannot fall by more than all of it, whose logarithm is not finite."""


@dataclass(frozen=True, slots=True)
class ShareComparison:
    """A :class:`~controller.decision.comparison.Comparison` of shares.

    Attributes:
        sums: events and requests.
        phi: each stratum's design effect, shape (strata,) or as the sums.
        frequent: whether events may be frequent. The ratio of two rates is then tested by bets, which gain from every
            request. The default gains from events alone: it is more powerful for rare ones, and what decisions use.
    """

    sums: StratifiedSums
    phi: Floats
    frequent: bool = False

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric) -> ShareComparison:
        """The requests that a metric counts, among those that it is a share of."""
        strata = [
            (metric_slices(control, evidence.slices, metric), metric_slices(candidate, evidence.slices, metric))
            for control, candidate in evidence.arms()
        ]
        return cls.of_slices(StratifiedSums.of(evidence, metric), strata)

    @classmethod
    def of_slices(
        cls, sums: StratifiedSums, strata: Sequence[tuple[Slices, Slices]], *, frequent: bool = False
    ) -> ShareComparison:
        """Sums whose design effects are those between slices of users."""
        return cls(sums, np.stack([share_design_effect(a, b) for a, b in strata], axis=-1), frequent)

    @property
    def values(self) -> Values:
        """See the protocol."""
        return self.sums.values(float(self.phi[..., -1].max()))

    @property
    def standardised(self) -> tuple[float, float] | None:
        """See the protocol."""
        return self.sums.standardised

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
        if self.frequent and relative:
            return log_e_difference(y_a, n_a, y_b, n_b, 0.0, side=side, scale=1 + max(by, _LEAST))
        if not self.frequent and (relative or by == 0):
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
        return replace(self, sums=self.sums.grown(factor))

    def _arrays(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.sums.y_a, self.sums.n_a, self.sums.y_b, self.sums.n_b
