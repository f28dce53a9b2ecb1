"""One metric of a candidate and its control, ready to be tested at any margin. Pure.

:func:`controller.decision.comparisons.compare` makes a :class:`Comparison` of a rollout's evidence;
:mod:`controller.decision.guardrails` and :mod:`controller.decision.goals` turn it into verdicts,
:mod:`controller.decision.intervals` into confidence limits, and :mod:`abmesh.analysis` into reports. Its arrays have
shape (1 + moments, strata): the first row is all evidence; each further row is what the current stage has counted since
a moment, so its earlier strata are empty.

Users send more than one request, so counts are divided by their design effect, and variances are taken between slices
of users (:mod:`abmesh.inference.variance`). A row that holds less than its stratum has its own, but never a smaller one
than the whole stratum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.busiest import effective_slices, needed_slices
from abmesh.inference.combined import standardised
from abmesh.inference.numbers import Floats, Side
from controller.decision.rollout_evidence import RolloutEvidence
from controller.evidence.strata import denominator, numerator
from controller.evidence.summary import VariantEvidence

MIN_SLICES: Final = 10
"""Fewest effective slices that variances between users are taken from; half of the slices where there are few."""


@dataclass(frozen=True, slots=True)
class Values:
    """The numbers to show beside a comparison.

    Attributes:
        candidate: its value over all strata, in the metric's unit; None if it has none.
        control: the control's.
        latest: the candidate's value in the current stage alone.
        latest_control: the control's.
        n: the candidate's requests, or whatever else the metric counts per.
        control_n: the control's.
        latest_n: the candidate's in the current stage alone.
        design_effect: in the current stage, at least 1, of a comparison with the control.
        own_design_effect: the same of the candidate's value alone, where that is another one.
        variance: of the candidate's value per request in the current stage, with what users repeat, in the metric's
            unit squared; 0 where it is not known.
    """

    candidate: float | None
    control: float | None
    latest: float | None
    latest_control: float | None
    n: float
    control_n: float
    latest_n: float = 0.0
    design_effect: float = 1.0
    own_design_effect: float | None = None
    variance: float = 0.0

    @property
    def alone(self) -> Values:
        """The same, beside a limit of the candidate's value that does not depend on the control."""
        own = self.own_design_effect
        return self if own is None else replace(self, design_effect=own)


class Comparison(Protocol):
    """A candidate and its control on one metric."""

    @property
    def values(self) -> Values:
        """The numbers to show beside it."""
        ...

    @property
    def standardised(self) -> tuple[float, float] | None:
        """The control's and the candidate's value, averaged over strata with the same weights.

        Their difference is what :meth:`increase` tests: unlike that of two totals, it does not depend on how the
        strata are mixed. None where no stratum can be compared.
        """
        ...

    def moment(self, row: int) -> tuple[float | None, int]:
        """The candidate's value since the moment of a row above 0, and how many requests it is taken from."""
        ...

    def earlier(self, row: int) -> float | None:
        """The candidate's value in the current stage up to that moment."""
        ...

    def level(self, side: Side, limit: float) -> Floats:
        """E-values against "the candidate's value is at most (GREATER), or at least (LESS), the limit".

        Returns:
            Natural logarithms, shape (1 + moments,).
        """
        ...

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """The same for the candidate's value minus the control's or, relative, for their ratio minus one."""
        ...

    def grown(self, factor: float) -> Self:
        """The comparison if the current stage had seen this many times its requests, all alike; without moments."""
        ...


@dataclass(frozen=True, slots=True)
class StratifiedSums:
    """Sums of a metric and of requests, each of shape (1 + moments, strata); ``a`` is the control."""

    y_a: Floats
    n_a: Floats
    y_b: Floats
    n_b: Floats

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric) -> StratifiedSums:
        """A ratio's numerator and denominator in a rollout's evidence."""

        def y(evidence: VariantEvidence) -> float:
            return numerator(evidence, metric)

        def n(evidence: VariantEvidence) -> float:
            return denominator(evidence, metric)

        if evidence.left_out is not None:
            rows = evidence.rows(metric)
            return cls(rows.a.total_y, rows.a.total_n, rows.b.total_y, rows.b.total_n)
        arms = evidence.arms()
        shape = (1 + len(evidence.look_back.increments), len(arms))
        found = cls(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape))
        for index, (control, candidate) in enumerate(arms):
            found._put(0, index, (y(control), n(control), y(candidate), n(candidate)))
        for row, item in enumerate(evidence.look_back.increments, start=1):
            found._put(row, -1, (y(item.control), n(item.control), y(item.candidate), n(item.candidate)))
        return found

    def _put(self, row: int, stratum: int, values: tuple[float, float, float, float]) -> None:
        for array, value in zip((self.y_a, self.n_a, self.y_b, self.n_b), values, strict=True):
            array[row, stratum] = value

    def values(self, design_effect: float) -> Values:
        """The numbers to show beside a comparison of them."""
        return Values(
            candidate=_ratio(self.y_b[0].sum(), self.n_b[0].sum()),
            control=_ratio(self.y_a[0].sum(), self.n_a[0].sum()),
            latest=_ratio(self.y_b[0, -1], self.n_b[0, -1]),
            latest_control=_ratio(self.y_a[0, -1], self.n_a[0, -1]),
            n=float(self.n_b[0].sum()),
            control_n=float(self.n_a[0].sum()),
            latest_n=float(self.n_b[0, -1]),
            design_effect=design_effect,
        )

    @property
    def standardised(self) -> tuple[float, float] | None:
        """See :attr:`Comparison.standardised`."""
        return standardised(self.n_a[0], self.y_a[0], self.n_b[0], self.y_b[0])

    def moment(self, row: int) -> tuple[float | None, int]:
        """See :meth:`Comparison.moment`."""
        return _ratio(self.y_b[row, -1], self.n_b[row, -1]), int(self.n_b[row, -1])

    def earlier(self, row: int) -> float | None:
        """See :meth:`Comparison.earlier`."""
        y, n = (float(array[0, -1] - array[row, -1]) for array in (self.y_b, self.n_b))
        # Without the busiest slices, which need not be the same ones since then.
        return _ratio(y, n) if n > 0 and y >= 0 else None

    def grown(self, factor: float) -> StratifiedSums:
        """All evidence, with the current stratum multiplied; see :meth:`Comparison.grown`."""
        return StratifiedSums(*(_grown(array, factor) for array in (self.y_a, self.n_a, self.y_b, self.n_b)))


def few_slices_effect(requests: Floats, fewest: int) -> Floats:
    """The design effect where requests fall in too few slices: each effective slice then counts as one request.

    Too few slices cannot show how alike the requests of one user are, so they are taken as all alike: a single user who
    sends everything proves nothing about the others.

    Args:
        requests: in each slice, or group of slices, shape (..., B).
        fewest: effective slices from which on the result is 1; fewer where there are fewer than twice as many slices.

    Returns:
        Shape (...).
    """
    seen = effective_slices(requests)
    few = (seen > 0) & (seen < needed_slices(requests.shape[-1], fewest))
    return np.asarray(np.where(few, requests.sum(axis=-1) / np.where(few, seen, 1.0), 1.0))


def over_moments(effects: Floats) -> Floats:
    """Design effects of shape (1 + moments, strata), where no moment has a smaller one than its whole stratum.

    What was counted since a moment is less, and its own design effect may be too small by chance.
    """
    effects[1:, -1] = np.maximum(effects[1:, -1], effects[0, -1])
    return effects


def _grown(rows: Floats, factor: float) -> Floats:
    grown = rows[:1].copy()
    grown[:, -1] *= factor
    return grown


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
