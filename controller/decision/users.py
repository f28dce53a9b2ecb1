"""What a typical user meets, the candidate's against the control's or a limit: guardrails with ``per: user``. Pure.

Requests weigh alike in a rate, so one client may speak for everybody. Here slices of users weigh nearly alike, and a
slice with far more requests than is usual is left out; see :mod:`abmesh.inference.busiest`. From there on it is a mean:
the normal mixture, with the variance between the slices' rates and Student's tails.

Called by :func:`controller.decision.comparisons.compare`, and to show it beside the request-weighted value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from abmesh.experiment.metrics import ENDED, Metric
from abmesh.inference.busiest import usual
from abmesh.inference.combined import combine
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.users import typical
from abmesh.inference.variance import OWN_RATE_FROM, design_effect, freedom, rate, request_variance
from controller.decision.comparison import MIN_SLICES, StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.variances import of_seen

MIN_EVENTS: Final = 1.0
"""Fewest independent events of the candidate that are to be expected before a share of typical users is judged."""

_REQUESTS = Metric("requests", "number", ((ENDED, 1),), (ENDED,))

_ROUNDING = 1e-15
"""A variance below this part of the squared mean is rounding."""


@dataclass(frozen=True, slots=True)
class UserVariances:
    """Variances between the slices' rates, as :class:`~controller.decision.variances.Variances`.

    Attributes:
        a: the control's slices as they count, shape (..., strata, B).
        b: the candidate's.
        share: whether a request varies at least as much as an independent event.
        moments: whether all rows but the first are what was counted since a moment: none has less than its stratum,
            since less evidence is more often alike by chance.
    """

    a: Slices
    b: Slices
    share: bool
    moments: bool = False

    @property
    def whole(self) -> UserVariances:
        """Those of all evidence alone, of rows since moments."""
        return replace(self, a=Slices(self.a.n[:1], self.a.y[:1]), b=Slices(self.b.n[:1], self.b.y[:1]))

    def compared(self, scale: float, offset: float) -> Floats:
        """See the protocol; both variants must have :data:`MIN_SLICES` slices that count."""
        moved = Slices(self.a.n, scale * self.a.y + offset * self.a.n)
        found = self._of(moved, np.minimum(_counting(self.a), _counting(self.b)))
        return found if self.share else of_seen(found, self.a, self.b)

    def candidate(self) -> Floats:
        """See the protocol; only the candidate must have that many slices.

        Its own, whatever the control's users are like; where it is not well known, at least that of both.
        """
        slices, counting = self.b.n.shape[-1], _counting(self.b)
        own = _unbiased(self._own() * slices / (slices - 1), counting, slices)
        known = (own > 0) & (self.b.total_n * rate(self.b) ** 2 >= OWN_RATE_FROM * own)
        found = self._of(self.a, counting)
        return self._over_moments(np.where(known & (counting >= MIN_SLICES), own, np.maximum(own, found)))

    @property
    def effects(self) -> Floats:
        """How many requests of slices as they count are worth one independent event, shape (..., strata)."""
        pooled = (self.a.total_y + self.b.total_y) / np.maximum(self.a.total_n + self.b.total_n, 1)
        return self._over_moments(design_effect(request_variance(self.a, self.b, share=True), pooled))

    @property
    def candidate_effects(self) -> Floats:
        """The same of the candidate's own share; where it is not well known, at least that of both variants."""
        share = rate(self.b)
        own = design_effect(self._own(), share)
        known = self.b.total_n * np.minimum(share, 1 - share) >= OWN_RATE_FROM * own
        return self._over_moments(np.where(known, own, np.maximum(own, self.effects)))

    def _own(self) -> Floats:
        """Variance per request between the candidate's own slices."""
        squares = ((self.b.y - rate(self.b)[..., None] * self.b.n) ** 2).sum(axis=-1)
        return np.asarray(squares / np.maximum(self.b.total_n, 1))

    @property
    def freedom(self) -> Floats:
        """Degrees of freedom in each stratum, shape (..., strata), at least 1."""
        a, b = _counting(self.a), _counting(self.b)
        kept = np.where((a > 0) & (b > 0), np.minimum(a, b), np.maximum(a, b))
        all_but_one = max(self.b.n.shape[-1] - 1, 1)
        return np.asarray(np.maximum(freedom(self.a, self.b) * (kept - 1) / all_but_one, 1.0))

    def _of(self, a: Slices, counting: Floats) -> Floats:
        s2 = request_variance(a, self.b, share=self.share)
        s2 = _unbiased(s2, counting, a.n.shape[-1])
        mean = (a.total_y + self.b.total_y) / np.maximum(a.total_n + self.b.total_n, 1)
        found = np.where(counting >= MIN_SLICES, np.where(s2 > _ROUNDING * mean**2, s2, 0.0), np.inf)
        return self._over_moments(found)

    def _over_moments(self, found: Floats) -> Floats:
        if self.moments:
            found[1:, -1] = np.maximum(found[1:, -1], found[0, -1])
        return found


@dataclass(frozen=True, slots=True)
class UserComparison(MeanComparison):
    """A :class:`~controller.decision.comparison.Comparison` of what typical users meet.

    Its sums are of slices as they count, its counts of all requests in these slices.

    Attributes:
        effects: design effect of a share in each stratum, shape (..., strata); None of anything else.
        own_effects: the same of the candidate's own share.
        slices: the candidate's slices that count, in the stratum with most.
        left_out: those that do not, because they have far more requests than is usual, where they have the most.
        left_share: share of the candidate's requests that they have there, 0..1.
    """

    effects: Floats | None = None
    own_effects: Floats | None = None
    slices: int = 0
    left_out: int = 0
    left_share: float = 0.0

    @classmethod
    def of(cls, evidence: RolloutEvidence, metric: Metric, tuned_for: float, alpha: float) -> UserComparison:
        """A ratio of two amounts, from each slice's own; not of a quantile."""
        requests, rows = evidence.rows(_REQUESTS), evidence.rows(metric)
        things = evidence.rows(replace(metric, per=(metric.counted,))) if metric.counted else rows
        a, b = _seen(requests.a.n, rows.a, things.a), _seen(requests.b.n, rows.b, things.b)
        variances = UserVariances(a.typical, b.typical, metric.share, moments=True)
        freedoms, effects = variances.freedom, variances.effects
        # Of the stratum with most of the candidate's requests, which is most of what is known; the current one's since.
        most = freedoms[0, int(np.argmax(b.typical.total_n[0]))]
        busiest = int(np.argmax(b.left_share))
        return cls(
            sums=_sums(a.typical, b.typical),
            counts=_sums(a.counts, b.counts),
            variances=variances,
            rho2=tuned_rho2(tuned_for, alpha),
            nu=np.array([most, *freedoms[1:, -1]]),
            design_effect=float(effects[0, -1]) if metric.share else 1.0,
            effects=effects if metric.share else None,
            own_effects=variances.candidate_effects if metric.share else None,
            slices=int(_counting(b.typical)[0].max()),
            left_out=int(b.left_out[busiest]),
            left_share=float(b.left_share[busiest]),
        )

    def grown(self, factor: float) -> UserComparison:
        """See the protocol."""
        assert isinstance(self.variances, UserVariances)
        return replace(
            self,
            sums=self.sums.grown(factor),
            counts=self.counts.grown(factor),
            variances=self.variances.whole,
            nu=np.atleast_1d(self.nu)[:1],
            effects=None if self.effects is None else self.effects[:1],
            own_effects=None if self.own_effects is None else self.own_effects[:1],
        )

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol.

        A share that is low by chance has a low variance by chance. So that of a share is at least the one at the limit
        that would be rejected, times the design effect.
        """
        if self.own_effects is None:
            return MeanComparison.level(self, side, limit)
        sums, n = self.sums, self.sums.n_b.sum(axis=-1)
        d = sums.y_b.sum(axis=-1) / np.maximum(n, 1) - limit
        s2 = np.maximum(self.variances.candidate(), self.own_effects * limit * (1 - limit))
        with np.errstate(invalid="ignore"):  # No requests of an unknown variance; replaced by 0.
            squares = np.where(sums.n_b > 0, sums.n_b * s2, 0.0)
        log_e = self._log_e(d, squares.sum(axis=-1) / np.maximum(n, 1) ** 2, side)
        return self._with_events(log_e, np.full_like(sums.n_b, limit), side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        d, v = self.contrast(by, relative=relative)
        log_e, sums = self._log_e(d, v, side), self.sums
        return self._with_events(log_e, (sums.y_a + sums.y_b) / np.maximum(sums.n_a + sums.n_b, 1), side)

    def contrast(self, by: float = 0.0, *, relative: bool = False) -> tuple[Floats, Floats]:
        """See :meth:`MeanComparison.contrast`.

        A share's variance is that of independent events at the rates that the margin says, times the design effect: a
        margin of a half more makes rare events vary by a half more, not by 1.5 squared.
        """
        if self.effects is None:
            return MeanComparison.contrast(self, by, relative=relative)
        scale, offset = (1 + by, 0.0) if relative else (1.0, by)
        sums = self.sums
        n_a, n_b = np.maximum(sums.n_a, 1e-300), np.maximum(sums.n_b, 1e-300)
        moved = scale * sums.y_a + offset * sums.n_a
        known = np.isfinite(self.variances.compared(1.0, 0.0))
        rate_b = np.clip((moved + sums.y_b) / (n_a + n_b), 0.0, 1.0)
        rate_a = np.clip((rate_b - offset) / max(scale, 1e-9), 0.0, 1.0)
        of_a, of_b = scale**2 * rate_a * (1 - rate_a), rate_b * (1 - rate_b)
        s2 = self.effects * (of_a * n_b + of_b * n_a) / (n_a + n_b)
        return combine(sums.n_a, moved, sums.n_b, sums.y_b, np.where(known, s2, np.inf))

    def _with_events(self, log_e: Floats, rate: Floats, side: Side) -> Floats:
        """Nothing of a share of which less than :data:`MIN_EVENTS` were to be expected: chance is too lopsided then.

        Args:
            log_e: shape (1 + moments,).
            rate: that is expected, shape (1 + moments, strata).
            side: too low a share is a matter of the events that are missing.
        """
        if self.effects is None:
            return log_e
        events = self.sums.n_b * (rate if side is Side.GREATER else 1 - rate) / self.effects
        return np.asarray(np.where(events.sum(axis=-1) >= MIN_EVENTS, log_e, 0.0))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One variant's slices, shape (1 + moments, strata, B), and what is left out in each stratum, shape (strata,)."""

    typical: Slices
    counts: Slices
    left_out: Floats
    left_share: Floats


def _seen(requests: Floats, arm: Slices, things: Slices) -> _Seen:
    kept = usual(requests)
    left = (requests[0] > 0) & ~kept[0]
    return _Seen(
        typical=typical(arm, kept),
        counts=Slices(np.where(kept, things.n, 0.0), np.where(kept, things.y, 0.0)),
        left_out=left.sum(axis=-1).astype(np.float64),
        left_share=np.where(left, requests[0], 0.0).sum(axis=-1) / np.maximum(requests[0].sum(axis=-1), 1.0),
    )


def _sums(a: Slices, b: Slices) -> StratifiedSums:
    return StratifiedSums(y_a=a.total_y, n_a=a.total_n, y_b=b.total_y, n_b=b.total_n)


def _unbiased(s2: Floats, counting: Floats, slices: int) -> Floats:
    """A variance with ``B/(B-1)`` for all slices, as one for those that count: the others are not among them."""
    return np.asarray(s2 * np.maximum(counting, 2) / np.maximum(counting - 1, 1) * (slices - 1) / slices)


def _counting(arm: Slices) -> Floats:
    """How many slices count, shape (...)."""
    return np.asarray(np.count_nonzero(arm.n, axis=-1), dtype=np.float64)
