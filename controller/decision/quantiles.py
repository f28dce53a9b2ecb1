"""A latency quantile, the candidate's against the control's or a limit, from histograms. Pure.

Called by :func:`controller.decision.comparisons.compare` and by the reports. A candidate's quantile is higher than the
control's exactly if more of its requests are above the control's. So a quantile is tested by a count, as
:mod:`controller.decision.shares` tests errors: requests above a latency that was chosen before the data.

The requests of a slow user are slow together, so both counts are divided by a design effect that is measured at that
latency, between groups of slices of users. The design effect of the mean duration would be far larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.combined import standardised
from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.edges import edge_deflator, edge_design_effect, level_deflator
from abmesh.inference.numbers import Floats, Side
from controller.decision.comparison import Values, few_slices_effect, over_moments
from controller.decision.latencies import LatencyTable
from controller.decision.rollout_evidence import RolloutEvidence

TAU = 0.5
"""Size of the log ratios of counts that are looked for: a tail moves by more than the latency does. A candidate that is
30% slower has more than twice as many requests above the control's p95."""

MIN_GROUPS = 5
"""Fewest effective groups of slices that variances between users are taken from."""


@dataclass(frozen=True, slots=True)
class QuantileComparison:
    """A :class:`~controller.decision.comparison.Comparison` of a latency quantile, by the requests above limits.

    The candidate's quantile exceeds a limit exactly if more than ``1 - share`` of its requests do. Against the control,
    the limit of each stratum is the control's own quantile, taken once (``edges``), times or plus the margin: requests
    of the control above its quantile are compared with requests of the candidate above the limit.

    Attributes:
        share: of the requests that are at or below the quantile, 0..1.
        a, b: the control and the candidate.
        edges: the control's quantile in each stratum, in milliseconds, shape (strata,); nan where it was not known.
        values: the numbers to show beside it.
        factor: by which the current stage's counts are multiplied.
    """

    share: float
    a: LatencyTable
    b: LatencyTable
    edges: Floats
    values: Values
    factor: float = 1.0

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric) -> QuantileComparison:
        """A quantile of durations, or of times to the first token, in milliseconds."""
        assert metric.quantile is not None
        control, candidate = evidence.latencies.of(metric.histogram)
        edges = np.array([next(iter(stratum.edges.get(metric.name, ())), np.nan) for stratum in evidence.strata])
        sizes = candidate.sizes()[0].sum(axis=-1)
        bare = Values(
            candidate=candidate.quantile(metric.quantile),
            control=control.quantile(metric.quantile),
            latest=candidate.quantile(metric.quantile, -1),
            latest_control=control.quantile(metric.quantile, -1),
            n=float(sizes.sum()),
            control_n=float(control.sizes()[0].sum()),
            latest_n=float(sizes[-1]),
        )
        found = cls(metric.quantile, control, candidate, edges, bare)
        at = edges[-1] if not np.isnan(edges[-1]) else bare.latest
        if at is None:
            return found
        where = np.full(len(edges), at)
        effect = float(found._phi(where, where, edge_design_effect)[0, -1])
        return replace(found, values=replace(bare, design_effect=effect, variance=found._variance(effect)))

    @property
    def standardised(self) -> tuple[float, float] | None:
        """See the protocol; of the strata that have an edge."""
        rows = []
        sizes_a, sizes_b = self.a.sizes()[0].sum(axis=-1), self.b.sizes()[0].sum(axis=-1)
        for index, edge in enumerate(self.edges):
            value_a, value_b = self.a.quantile(self.share, index), self.b.quantile(self.share, index)
            if value_a is not None and value_b is not None and not np.isnan(edge):
                n_a, n_b = sizes_a[index], sizes_b[index]
                rows.append((n_a, n_a * value_a, n_b, n_b * value_b))
        return standardised(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        bounds = self._bounds()
        above, n = self.b.since(row, bounds)
        if n <= 0:
            return None, 0
        return self._bound(bounds, above, n), round(n)

    def earlier(self, row: int) -> float | None:
        """See the protocol."""
        bounds = self._bounds()
        above, n = self.b.earlier(row, bounds)
        return self._bound(bounds, above, n) if n > 0 else None

    def _bounds(self) -> Floats:
        now = self.b.groups[-1]
        return np.append(now.lower, now.lower[-1] + now.width[-1]) if now.lower.size else np.zeros(1)

    def _bound(self, bounds: Floats, above: Floats, n: float) -> float:
        """The first bound of a bin above which at most the quantile's share is left, which is exact to the bin."""
        return float(bounds[int(np.argmax(above <= n * (1 - self.share) * (1 + 1e-12)))])

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        limits = np.full(len(self.edges), limit)
        phi = self._phi(limits, limits, level_deflator)
        above = self._grown(self.b.above(limits))
        s, n = (above / phi).sum(axis=-1), (self._grown(self.b.sizes()) / phi).sum(axis=-1)
        return log_e_share(s, n, 1 - self.share, side=side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        limits = self.edges * (1 + by) if relative else self.edges + by
        phi = self._phi(self.edges, limits, edge_deflator)
        y_a, y_b = self._grown(self.a.above(self.edges)) / phi, self._grown(self.b.above(limits)) / phi
        n_a, n_b = self._grown(self.a.sizes()), self._grown(self.b.sizes())
        return log_e_ratio(y_a, y_b, n_b / np.maximum(n_a + n_b, 1e-300), 0.0, side=side, tau=TAU)

    def grown(self, factor: float) -> QuantileComparison:
        """See the protocol."""
        sizes = self.b.sizes()[0].sum(axis=-1)
        n = float(sizes[:-1].sum() + sizes[-1] * factor)
        return replace(
            self,
            a=self.a.without_look_back,
            b=self.b.without_look_back,
            factor=factor,
            values=replace(self.values, n=n),
        )

    def _variance(self, phi: float) -> float:
        """Of the candidate's quantile per request in the current stage, by how far values lie apart there."""
        n = self.values.latest_n
        error = math.sqrt(phi * self.share * (1 - self.share) / n) if n else 0.0
        low, high = (self.b.quantile(min(max(self.share + way * error, 0.0), 1.0), -1) for way in (-1, 1))
        return 0.0 if low is None or high is None else n * ((high - low) / 2) ** 2

    def _grown(self, rows: Floats) -> Floats:
        """Rows summed over groups, shape (1 + moments, strata), the current stratum multiplied."""
        grown = rows.sum(axis=-1)
        grown[:, -1] *= self.factor
        return np.asarray(grown)

    def _phi(self, edges: Floats, limits: Floats, deflator: Callable[..., Floats]) -> Floats:
        """What counts above the control's edges and the candidate's limits are divided by, (1 + moments, strata)."""
        n_a, n_b = self.a.sizes(), self.b.sizes()
        between = deflator(self.a.above(edges), n_a, self.b.above(limits), n_b)
        few = (few_slices_effect(n, MIN_GROUPS) for n in (n_a, n_b))
        return over_moments(np.maximum.reduce([between, *few]))
