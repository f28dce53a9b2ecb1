"""A mean or rate, the candidate's against the control's or a limit: duration, tokens, cost, events. Pure.

Called by :func:`controller.decision.comparisons.compare` and by the reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from abmesh.experiment.metrics import LATENCY_MEAN, Metric
from abmesh.inference.combined import combine
from abmesh.inference.histogram import Bins, merge, size
from abmesh.inference.means import best_rho2, log_e_mean
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.variance import request_variance
from controller.decision.comparison import StratifiedSums, Values
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.variances import MomentVariances, SliceVariances, Variances

MIN_MEAN = 50
"""Fewest requests of the candidate that a mean is judged on: its method is right for large numbers only."""


@dataclass(frozen=True, slots=True)
class MeanComparison:
    """A :class:`~controller.decision.comparison.Comparison` of means.

    Attributes:
        sums: of the metric and of requests.
        counts: the same, but of how many things the metric is a value of, where its denominator does not count them.
        variances: per request.
        rho2: of the mixture, tuned to the candidate's requests at which a decision is wanted.
        nu: degrees of freedom of the current stratum's variance, shape (1 + moments,); infinite where it is as good as
            known.
        design_effect: of the current stratum, at least 1.
    """

    sums: StratifiedSums
    counts: StratifiedSums
    variances: Variances
    rho2: float
    nu: Floats | float
    design_effect: float = 1.0

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric, tuned_for: float, alpha: float) -> MeanComparison:
        """A ratio of two amounts, such as the tokens of an answer or the clicks of a request.

        Its denominator takes the place of requests everywhere, even where it does not count them: the method needs
        independent slices, whatever is counted in them.
        """
        rows = evidence.rows(metric)
        slices = SliceVariances(rows.a, rows.b)
        sums = StratifiedSums.of(evidence, metric)
        counts = StratifiedSums.of(evidence, replace(metric, per=(metric.counted,))) if metric.counted else sums
        effect = 1.0
        if metric == LATENCY_MEAN:  # Only a histogram of the very amount tells how requests differ.
            bins = merge(part for arm in evidence.arms()[-1] for part in arm.histograms("duration").values())
            effect = _design_effect(bins, float(request_variance(rows.a, rows.b)[0, -1]))
        return cls(sums, counts, MomentVariances(slices), tuned_rho2(tuned_for, alpha), slices.freedom, effect)

    @property
    def values(self) -> Values:
        """See the protocol."""
        numbers = self.counts.values(self.design_effect)
        found = self.sums.values(self.design_effect)
        s2 = float(self.variances.candidate()[..., -1].max())
        # Per request as the numbers count them, which need not be what the metric is over.
        scale = numbers.latest_n / found.latest_n if found.latest_n else 1.0
        variance = s2 * scale if math.isfinite(s2) else 0.0
        return replace(found, n=numbers.n, control_n=numbers.control_n, latest_n=numbers.latest_n, variance=variance)

    @property
    def standardised(self) -> tuple[float, float] | None:
        """See the protocol."""
        return self.sums.standardised

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        return self.sums.moment(row)[0], self.counts.moment(row)[1]

    def earlier(self, row: int) -> float | None:
        """See the protocol."""
        return self.sums.earlier(row)

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        n = self.sums.n_b.sum(axis=-1)
        d = self.sums.y_b.sum(axis=-1) / np.maximum(n, 1) - limit
        with np.errstate(invalid="ignore"):  # No requests of an unknown variance; replaced by 0.
            s2 = np.where(self.sums.n_b > 0, self.sums.n_b * self.variances.candidate(), 0.0)
        return self._log_e(d, s2.sum(axis=-1) / np.maximum(n, 1) ** 2, side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        d, v = self.contrast(by, relative=relative)
        return self._log_e(d, v, side)

    def contrast(self, by: float = 0.0, *, relative: bool = False) -> tuple[Floats, Floats]:
        """Difference of the means beyond a margin and its squared standard error, each of shape (1 + moments,).

        The control is first moved to where the margin puts the candidate; the variance that both share is then the one
        under the null hypothesis.
        """
        scale, offset = (1 + by, 0.0) if relative else (1.0, by)
        sums = self.sums
        moved = scale * sums.y_a + offset * sums.n_a
        return combine(sums.n_a, moved, sums.n_b, sums.y_b, self.variances.compared(scale, offset))

    def grown(self, factor: float) -> MeanComparison:
        """See the protocol."""
        found = replace(self, sums=self.sums.grown(factor), counts=self.counts.grown(factor))
        if not isinstance(found.variances, MomentVariances):
            return found
        nu = found.nu if isinstance(found.nu, float) else found.nu[:1]
        return replace(found, variances=found.variances.whole, nu=nu)

    def _log_e(self, d: Floats, v: Floats, side: Side) -> Floats:
        n = self.counts.n_b.sum(axis=-1)
        enough = (n >= MIN_MEAN) & (v > 0) & np.isfinite(v)
        safe = np.where(enough, v, 1.0)
        log_e = log_e_mean(np.where(enough, d, 0.0), safe, self.rho2 * n * safe, side=side, nu=self.nu)
        return np.where(enough, log_e, 0.0)


def tuned_rho2(tuned_for: float, alpha: float) -> float:
    """The mixture of a one-sided test that decides soonest near a number of requests.

    Args:
        tuned_for: the candidate's requests.
        alpha: of the one-sided decision.
    """
    # A one-sided test at alpha is tuned as a two-sided one at twice that.
    return best_rho2(min(2 * alpha, 0.5), tuned_for)


def _design_effect(bins: Bins, s2: float) -> float:
    """How much larger the variance per request is between slices of users than between requests."""
    n = size(bins)
    if n < 2:
        return 1.0
    middles = [(lower + width / 2, count) for (lower, width), count in bins.items()]
    mean = sum(middle * count for middle, count in middles) / n
    plain = sum((middle - mean) ** 2 * count for middle, count in middles) / (n - 1)
    return max(1.0, s2 / plain) if plain > 0 else 1.0
