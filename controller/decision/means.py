"""A mean or rate, the candidate's against the control's or a limit: duration, tokens, cost, events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.experiment.metrics import LATENCY_MEAN, Metric
from abmesh.inference.combined import combine
from abmesh.inference.histogram import Bins, merge, size
from abmesh.inference.means import best_rho2, log_e_mean
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.variance import freedom, request_variance
from controller.decision.comparison import MIN_SLICES, Sums, Values
from controller.decision.rollout_evidence import RolloutEvidence
from controller.evidence.strata import metric_slices, spread

MIN_MEAN = 50
"""Fewest requests of the candidate that a mean is judged on: its method is right for large numbers."""


_ROUNDING = 1e-15
"""A variance below this part of the squared mean is rounding."""


@dataclass(frozen=True, slots=True)
class MeanComparison:
    """A :class:`~controller.decision.comparison.Comparison` of means.

    Attributes:
        sums: of the metric and of requests.
        counts: the same, but of how many things the metric is a value of where its denominator is no number of them.
        slices: the control's and the candidate's in each stratum, for variances.
        rho2: of the mixture, tuned to the requests at which a decision is wanted.
        nu: degrees of freedom of the present stratum's variance.
        design_effect: of the present stratum, at least 1.
    """

    sums: Sums
    counts: Sums
    slices: Sequence[tuple[Slices, Slices]]
    rho2: float
    nu: float
    design_effect: float = 1.0

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric, tuned_for: float, alpha: float) -> MeanComparison:
        """A ratio of two amounts, such as the tokens of an answer or the clicks of a request.

        Its denominator takes the place of requests everywhere, also where it is not a number of them: what the
        method needs is that slices are independent, not what is counted in them.
        """
        slices = [
            (metric_slices(control, evidence.slices, metric), metric_slices(candidate, evidence.slices, metric))
            for control, candidate in evidence.arms()
        ]
        sums = Sums.of(evidence, metric)
        counts = Sums.of(evidence, replace(metric, per=(metric.counted,))) if metric.counted else sums
        # A one-sided test at alpha is tuned as a two-sided one at twice that.
        rho2 = best_rho2(min(2 * alpha, 0.5), tuned_for)
        a, b = slices[-1]
        effect = 1.0
        if metric == LATENCY_MEAN:  # Only a histogram of the very amount tells how requests differ.
            bins = merge(arm.bins for arm in evidence.arms()[-1])
            effect = _design_effect(bins, float(request_variance(a, b)))
        return cls(sums, counts, slices, rho2, float(freedom(a, b)), effect)

    @property
    def values(self) -> Values:
        """See the protocol."""
        numbers = self.counts.values(self.design_effect)
        found = self.sums.values(self.design_effect)
        return replace(found, n=numbers.n, control_n=numbers.control_n, latest_n=numbers.latest_n)

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        return self.sums.moment(row)[0], self.counts.moment(row)[1]

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        n = self.sums.n_b.sum(axis=-1)
        d = self.sums.y_b.sum(axis=-1) / np.maximum(n, 1) - limit
        s2 = np.where(self.sums.n_b > 0, self.sums.n_b * self._s2(compared=False), 0.0)
        return self._log_e(d, s2.sum(axis=-1) / np.maximum(n, 1) ** 2, side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        d, v = self.contrast(by, relative=relative)
        return self._log_e(d, v, side)

    def contrast(self, by: float = 0.0, *, relative: bool = False) -> tuple[Floats, Floats]:
        """Difference of the means beyond a margin and its squared standard error, each of shape (1 + moments,).

        The control is first brought to where the margin puts the candidate, so that the variance that both share is the
        one under the null hypothesis.
        """
        scale, offset = (1 + by, 0.0) if relative else (1.0, by)
        sums = self.sums
        moved = scale * sums.y_a + offset * sums.n_a
        return combine(sums.n_a, moved, sums.n_b, sums.y_b, self._s2(scale, offset))

    def grown(self, factor: float) -> MeanComparison:
        """See the protocol."""
        return replace(self, sums=self.sums.grown(factor), counts=self.counts.grown(factor))

    def _s2(self, scale: float = 1.0, offset: float = 0.0, *, compared: bool = True) -> Floats:
        """Each stratum's variance per request, shape (strata,); infinite where too few slices tell.

        The candidate's slices must do; the control's as well where the two are compared.
        """
        found = []
        for a, b in self.slices:
            enough = spread(b) >= MIN_SLICES and (not compared or spread(a) >= MIN_SLICES)
            moved = Slices(a.n, scale * a.y + offset * a.n)
            s2 = float(request_variance(moved, b)) if enough else np.inf
            # Where all durations are alike, rounding leaves a variance that is not quite 0, which would prove anything.
            mean = (moved.total_y + b.total_y) / np.maximum(moved.total_n + b.total_n, 1)
            found.append(s2 if s2 > _ROUNDING * mean**2 else 0.0)
        return np.array(found)

    def _log_e(self, d: Floats, v: Floats, side: Side) -> Floats:
        n = self.counts.n_b.sum(axis=-1)
        enough = (n >= MIN_MEAN) & (v > 0) & np.isfinite(v)
        safe = np.where(enough, v, 1.0)
        log_e = log_e_mean(np.where(enough, d, 0.0), safe, self.rho2 * n * safe, side=side, nu=self.nu)
        return np.where(enough, log_e, 0.0)


def _design_effect(bins: Bins, s2: float) -> float:
    """How much larger the variance per request is between slices of users than between requests."""
    n = size(bins)
    if n < 2:
        return 1.0
    middles = [(lower + width / 2, count) for (lower, width), count in bins.items()]
    mean = sum(middle * count for middle, count in middles) / n
    plain = sum((middle - mean) ** 2 * count for middle, count in middles) / (n - 1)
    return max(1.0, s2 / plain) if plain > 0 else 1.0
