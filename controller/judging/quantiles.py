"""A latency quantile, the candidate's against the control's or a limit, from histograms. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controller.evidence.histogram import merge, quantile
from controller.inference.counts import log_e_ratio, log_e_share
from controller.inference.cumulative import Cumulative
from controller.inference.numbers import Floats, Side
from controller.inference.quantiles import edge_design_effect
from controller.judging.comparison import Values
from controller.judging.course import Course
from experiment.metrics import Metric

MIN_GROUPS = 5
"""Fewest groups of slices with requests that variances between users are taken from."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant's durations.

    Attributes:
        groups: by group of slices, one histogram set a stratum.
        since: those of the present stage since each moment.
    """

    groups: tuple[Cumulative, ...]
    since: Cumulative

    def above(self, limits: Floats) -> Floats:
        """Requests above each stratum's limit, shape (1 + moments, strata); none where a limit is not a number."""
        known = ~np.isnan(limits)
        at = np.where(known, limits, 0.0)
        rows = np.zeros((1 + len(self.since.sizes), len(self.groups)))
        for index, groups in enumerate(self.groups):
            rows[0, index] = groups.exceeding(at[index]).sum()
        rows[1:, -1] = self.since.exceeding(at[-1])
        return np.where(known, rows, 0.0)

    def sizes(self) -> Floats:
        """Requests, shape (1 + moments, strata)."""
        rows = np.zeros((1 + len(self.since.sizes), len(self.groups)))
        rows[0] = [groups.sizes.sum() for groups in self.groups]
        rows[1:, -1] = self.since.sizes
        return rows


@dataclass(frozen=True, slots=True)
class QuantileComparison:
    """A :class:`~controller.judging.comparison.Comparison` of a latency quantile, by the requests above limits.

    The candidate's quantile exceeds a limit exactly if more than ``1 - share`` of its requests do. Against the control,
    the limit of each stratum is the control's own quantile, taken once (``edges``), times or plus the margin: requests
    of the control above its quantile are compared with those of the candidate above the limit.

    Attributes:
        share: of the requests that are at or below the quantile, 0..1.
        a, b: the control and the candidate.
        edges: the control's quantile in each stratum, in milliseconds, shape (strata,); nan where it was not known.
        values: what is compared.
        factor: by which the present stage's counts are multiplied; with one, there are no moments.
    """

    share: float
    a: Arm
    b: Arm
    edges: Floats
    values: Values
    factor: float | None = None

    @classmethod
    def of_durations(cls, course: Course, metric: Metric) -> QuantileComparison:
        """Durations of all requests that ended, in milliseconds."""
        assert metric.quantile is not None
        arms = course.arms()
        control = Arm(
            tuple(Cumulative.of(list(a.groups.values())) for a, _ in arms),
            Cumulative.of([item.control.bins for item in course.since]),
        )
        candidate = Arm(
            tuple(Cumulative.of(list(b.groups.values())) for _, b in arms),
            Cumulative.of([item.candidate.bins for item in course.since]),
        )
        edges = np.array([next(iter(stratum.edges.get(metric.name, ())), np.nan) for stratum in course.strata])
        bare = Values(
            candidate=quantile(merge(b.bins for _, b in arms), metric.quantile),
            control=quantile(merge(a.bins for a, _ in arms), metric.quantile),
            latest=candidate.groups[-1].quantile(metric.quantile),
            latest_control=control.groups[-1].quantile(metric.quantile),
            n=float(candidate.sizes()[0].sum()),
            control_n=float(control.sizes()[0].sum()),
        )
        found = cls(metric.quantile, control, candidate, edges, bare)
        at = edges[-1] if not np.isnan(edges[-1]) else bare.latest
        if at is None:
            return found
        return replace(found, values=replace(bare, design_effect=found._phi(len(arms) - 1, at, at)))

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        since = self.b.since
        alone = replace(since, before=since.before[row - 1 : row])
        return alone.quantile(self.share), int(alone.sizes.sum())

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        phi = np.array([self._phi(index, limit, limit) for index in range(len(self.edges))])
        above = self._grown(self.b.above(np.full(len(self.edges), limit)))
        s, n = (above / phi).sum(axis=-1), (self._grown(self.b.sizes()) / phi).sum(axis=-1)
        return log_e_share(s, n, 1 - self.share, side=side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        limits = self.edges * (1 + by) if relative else self.edges + by
        phi = np.array(
            [
                1.0 if np.isnan(edge) else self._phi(index, edge, limit)
                for index, (edge, limit) in enumerate(zip(self.edges, limits, strict=True))
            ]
        )
        y_a, y_b = self._grown(self.a.above(self.edges)) / phi, self._grown(self.b.above(limits)) / phi
        n_a, n_b = self._grown(self.a.sizes()), self._grown(self.b.sizes())
        return log_e_ratio(y_a, y_b, n_b / np.maximum(n_a + n_b, 1e-300), 0.0, side=side)

    def grown(self, factor: float) -> QuantileComparison:
        """See the protocol."""
        sizes = self.b.sizes()[0]
        n = float(sizes[:-1].sum() + sizes[-1] * factor)
        return replace(self, factor=factor, values=replace(self.values, n=n))

    def _grown(self, rows: Floats) -> Floats:
        if self.factor is None:
            return rows
        grown = rows[:1].copy()
        grown[:, -1] *= self.factor
        return grown

    def _phi(self, stratum: int, edge: float, limit: float) -> float:
        a, b = self.a.groups[stratum], self.b.groups[stratum]
        edges, limits = np.array(edge), np.array(limit)
        between = float(edge_design_effect(a.exceeding(edges), a.sizes, b.exceeding(limits), b.sizes))
        return max(between, _crowding(a), _crowding(b))


def _crowding(groups: Cumulative) -> float:
    """As :func:`~controller.judging.comparison.crowding`, for groups of slices."""
    seen = int(np.count_nonzero(groups.sizes))
    return float(groups.sizes.sum()) / seen if 0 < seen < MIN_GROUPS else 1.0
