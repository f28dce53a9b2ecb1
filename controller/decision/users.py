"""What a typical user meets, the candidate's against the control's or a limit: guardrails with ``per: user``. Pure.

Requests weigh alike in a rate, so one client may speak for everybody. Here slices of users weigh nearly alike, and a
slice with far more requests than is usual is left out; see :mod:`abmesh.inference.users`. From there on it is a mean:
the normal mixture, with the variance between the slices' rates and Student's tails.

Called by :func:`controller.decision.comparisons.compare`, and to show it beside the request-weighted value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.users import typical, usual
from abmesh.inference.variance import design_effect, freedom, request_variance
from controller.decision.comparison import MIN_SLICES, StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.rollout_evidence import RolloutEvidence
from controller.evidence.strata import metric_slices, request_counts
from controller.evidence.summary import VariantEvidence

_ROUNDING = 1e-15
"""A variance below this part of the squared mean is rounding."""


@dataclass(frozen=True, slots=True)
class UserVariances:
    """Variances between the slices' rates, as :class:`~controller.decision.variances.Variances`.

    Attributes:
        a: the control's slices in each stratum as they count, shape (..., strata, B).
        b: the candidate's.
        share: whether a request varies at least as much as an independent event.
    """

    a: Slices
    b: Slices
    share: bool

    def compared(self, scale: float, offset: float) -> Floats:
        """See the protocol; both variants must have :data:`MIN_SLICES` slices that count."""
        moved = Slices(self.a.n, scale * self.a.y + offset * self.a.n)
        return self._of(moved, np.minimum(_counting(self.a), _counting(self.b)))

    def candidate(self) -> Floats:
        """See the protocol; only the candidate must have that many slices."""
        return self._of(self.a, _counting(self.b))

    @property
    def freedom(self) -> Floats:
        """Degrees of freedom in each stratum, shape (..., strata), at least 1."""
        a, b = _counting(self.a), _counting(self.b)
        kept = np.where((a > 0) & (b > 0), np.minimum(a, b), np.maximum(a, b))
        all_but_one = max(self.b.n.shape[-1] - 1, 1)
        return np.asarray(np.maximum(freedom(self.a, self.b) * (kept - 1) / all_but_one, 1.0))

    def _of(self, a: Slices, counting: Floats) -> Floats:
        s2 = request_variance(a, self.b, share=self.share)
        # Slices that are left out are none of those that the variance is taken from.
        slices = a.n.shape[-1]
        s2 = s2 * np.maximum(counting, 2) / np.maximum(counting - 1, 1) * (slices - 1) / slices
        mean = (a.total_y + self.b.total_y) / np.maximum(a.total_n + self.b.total_n, 1)
        return np.asarray(np.where(counting >= MIN_SLICES, np.where(s2 > _ROUNDING * mean**2, s2, 0.0), np.inf))


@dataclass(frozen=True, slots=True)
class UserComparison(MeanComparison):
    """A :class:`~controller.decision.comparison.Comparison` of what typical users meet.

    Its sums are of slices as they count, its counts of all requests in these slices.

    Attributes:
        effects: design effect of a share in each stratum, shape (..., strata); None of anything else.
        slices: the candidate's slices that count, in the stratum with most.
        left_out: those that do not, because they have far more requests than is usual, where they have the most.
        left_share: share of the candidate's requests that they have there, 0..1.
    """

    effects: Floats | None = None
    slices: int = 0
    left_out: int = 0
    left_share: float = 0.0

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric, tuned_for: float, alpha: float) -> UserComparison:
        """A ratio of two amounts, from each slice's own; not of a quantile.

        Since a moment of which only totals are known, nothing is known of users.
        """
        strata = [[_seen(arm, evidence.slices, metric) for arm in arms] for arms in evidence.arms()]
        rows = [
            [_seen(arm, evidence.slices, metric) for arm in (item.control, item.candidate)]
            for item in evidence.look_back.increments
        ]
        a, b = (_stacked(arms[index].typical for arms in strata) for index in (0, 1))
        variances = UserVariances(a, b, metric.share)
        effects, busiest = share_effects(a, b), max((arms[1] for arms in strata), key=lambda arm: arm.left_share)
        return cls(
            sums=_sums([[arm.typical for arm in arms] for arms in strata], [[arm.typical for arm in r] for r in rows]),
            counts=_sums([[arm.counts for arm in arms] for arms in strata], [[arm.counts for arm in r] for r in rows]),
            variances=variances,
            rho2=tuned_rho2(tuned_for, alpha),
            nu=_freedom(variances, len(rows)),
            design_effect=float(effects[-1]) if metric.share else 1.0,
            effects=effects if metric.share else None,
            slices=int(np.count_nonzero(b.n, axis=-1).max()),
            left_out=busiest.left_out,
            left_share=busiest.left_share,
        )

    def grown(self, factor: float) -> UserComparison:
        """See the protocol."""
        nu = np.atleast_1d(self.nu)[:1]
        return replace(self, sums=self.sums.grown(factor), counts=self.counts.grown(factor), nu=nu)

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol.

        A share that is low by chance has a low variance by chance. So that of a share is at least the one at the limit
        that would be rejected, times the design effect.
        """
        if self.effects is None:
            return MeanComparison.level(self, side, limit)
        sums, n = self.sums, self.sums.n_b.sum(axis=-1)
        d = sums.y_b.sum(axis=-1) / np.maximum(n, 1) - limit
        s2 = np.maximum(self.variances.candidate(), self.effects * limit * (1 - limit))
        with np.errstate(invalid="ignore"):  # No requests of an unknown variance; replaced by 0.
            squares = np.where(sums.n_b > 0, sums.n_b * s2, 0.0)
        return self._log_e(d, squares.sum(axis=-1) / np.maximum(n, 1) ** 2, side)


@dataclass(frozen=True, slots=True)
class _Seen:
    """One variant's slices in one stratum, or since one moment."""

    typical: Slices
    counts: Slices
    left_out: int
    left_share: float


def _seen(evidence: VariantEvidence, slices: int, metric: Metric) -> _Seen:
    requests = request_counts(evidence, slices)
    kept = usual(requests)
    arm = things = metric_slices(evidence, slices, metric)
    if metric.counted:
        things = metric_slices(evidence, slices, replace(metric, per=(metric.counted,)))
    left = (requests > 0) & ~kept
    return _Seen(
        typical=typical(arm, kept),
        counts=Slices(np.where(kept, things.n, 0.0), np.where(kept, things.y, 0.0)),
        left_out=int(left.sum()),
        left_share=float(requests[left].sum() / max(requests.sum(), 1.0)),
    )


def _stacked(arms: Iterable[Slices]) -> Slices:
    found = list(arms)
    return Slices(np.stack([arm.n for arm in found]), np.stack([arm.y for arm in found]))


def _sums(strata: list[list[Slices]], rows: list[list[Slices]]) -> StratifiedSums:
    """Sums over slices; the first row is all strata, each further one the current stratum since a moment."""
    found = [np.zeros((1 + len(rows), len(strata))) for _ in range(4)]
    for index, (a, b) in enumerate(strata):
        for array, value in zip(found, (a.total_y, a.total_n, b.total_y, b.total_n), strict=True):
            array[0, index] = value
    for row, (a, b) in enumerate(rows, start=1):
        for array, value in zip(found, (a.total_y, a.total_n, b.total_y, b.total_n), strict=True):
            array[row, -1] = value
    return StratifiedSums(*found)


def share_effects(a: Slices, b: Slices) -> Floats:
    """How many requests of slices as they count are worth one independent request, shape (...)."""
    pooled = (a.total_y + b.total_y) / np.maximum(a.total_n + b.total_n, 1)
    return design_effect(request_variance(a, b, share=True), pooled)


def _freedom(variances: UserVariances, moments: int) -> Floats:
    """Of the stratum with most of the candidate's requests, which is most of what is known; the current one's since."""
    found = variances.freedom
    most = found[int(np.argmax(variances.b.total_n))]
    return np.array([most, *[found[-1]] * moments])


def _counting(arm: Slices) -> Floats:
    """How many slices count, shape (...)."""
    return np.asarray(np.count_nonzero(arm.n, axis=-1), dtype=np.float64)
