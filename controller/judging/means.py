"""A mean, the candidate's against the control's or a limit: duration. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.evidence.histogram import merge, size
from controller.evidence.strata import duration_slices, spread
from controller.inference.combined import combine
from controller.inference.means import best_rho2, log_e_mean, request_variance
from controller.inference.numbers import Floats, Side
from controller.judging.comparison import MIN_SLICES, Sums, Values
from controller.judging.course import Course

MIN_MEAN = 50
"""Fewest requests of the candidate that a mean is judged on: its method is right for large numbers."""


@dataclass(frozen=True, slots=True)
class MeanComparison:
    """A :class:`~controller.judging.comparison.Comparison` of means.

    Attributes:
        sums: of the metric and of requests.
        s2: each stratum's variance per request, shape (strata,).
        rho2: of the mixture, tuned to the requests at which a decision is wanted.
        nu: degrees of freedom of the variances.
        design_effect: of the present stratum, at least 1.
    """

    sums: Sums
    s2: Floats
    rho2: float
    nu: float
    design_effect: float = 1.0

    @classmethod
    def of_durations(cls, course: Course, tuned_for: float, alpha: float) -> MeanComparison:
        """Durations of all requests that ended, in milliseconds."""
        s2 = []
        for control, candidate in course.arms():
            a, b = duration_slices(control, course.slices), duration_slices(candidate, course.slices)
            known = min(spread(a), spread(b)) >= MIN_SLICES
            s2.append(float(request_variance(a, b)) if known else np.inf)
        sums = Sums.of(course, lambda evidence: evidence.duration_ms, lambda evidence: sum(evidence.codes.values()))
        rho2 = best_rho2(min(2 * alpha, 0.5), tuned_for)
        return cls(sums, np.array(s2), rho2, course.slices - 1, _design_effect(course, s2[-1]))

    @property
    def values(self) -> Values:
        """See the protocol."""
        return self.sums.values(self.design_effect)

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        return self.sums.moment(row)

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        n = self.sums.n_b.sum(axis=-1)
        d = self.sums.y_b.sum(axis=-1) / np.maximum(n, 1) - limit
        v = np.where(self.sums.n_b > 0, self.sums.n_b * self.s2, 0.0).sum(axis=-1) / np.maximum(n, 1) ** 2
        return self._log_e(d, v, n, side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        d, v = self.contrast(by, relative=relative)
        return self._log_e(d, v, self.sums.n_b.sum(axis=-1), side)

    def contrast(self, by: float = 0.0, *, relative: bool = False) -> tuple[Floats, Floats]:
        """Difference of the means beyond a margin and its squared standard error, each of shape (1 + moments,)."""
        scale, offset = (1 + by, 0.0) if relative else (1.0, by)
        sums = self.sums
        return combine(sums.n_a, sums.y_a, sums.n_b, sums.y_b, self.s2, scale=scale, offset=offset)

    def grown(self, factor: float) -> MeanComparison:
        """See the protocol."""
        return replace(self, sums=self.sums.grown(factor))

    def _log_e(self, d: Floats, v: Floats, n: Floats, side: Side) -> Floats:
        enough = (n >= MIN_MEAN) & (v > 0) & np.isfinite(v)
        safe = np.where(enough, v, 1.0)
        log_e = log_e_mean(np.where(enough, d, 0.0), safe, self.rho2 * n * safe, side=side, nu=self.nu)
        return np.where(enough, log_e, 0.0)


def _design_effect(course: Course, s2: float) -> float:
    """How much larger the variance per request is between slices of users than between requests."""
    control, candidate = course.arms()[-1]
    bins = merge((control.bins, candidate.bins))
    n = size(bins)
    if n < 2:
        return 1.0
    middles = [(lower + width / 2, count) for (lower, width), count in bins.items()]
    mean = sum(middle * count for middle, count in middles) / n
    plain = sum((middle - mean) ** 2 * count for middle, count in middles) / (n - 1)
    return max(1.0, s2 / plain) if plain > 0 else 1.0
