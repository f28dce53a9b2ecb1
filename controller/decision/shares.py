"""A share of requests, the candidate's against the control's or a limit: errors, refusals, cached answers. Pure.

Called by :func:`controller.decision.comparisons.compare`, by the emergency stop and by the reports. What is rare and
what is frequent are compared by different tests, each of them valid at any look:

ratio       exact, of events alone: the strongest for rare ones, and without power for frequent ones
bets        exact, of all requests, whatever the rates are
difference  asymptotic, on the difference of the two shares: the strongest at the size that it is tuned for

Which one is taken is known before the data that it tests: from the control's rate in an earlier stage, or in the first
requests of this one, which stays as it is once taken (:mod:`controller.decision.decide`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.combined import combine
from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.difference import log_e_difference
from abmesh.inference.means import log_e_mean
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.variance import freedom
from controller.decision.comparison import StratifiedSums, Values, over_moments
from controller.decision.means import tuned_rho2
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.variances import candidate_design_effect, share_design_effect

FREQUENT: Final = 0.1
"""Rate from which events are frequent."""

ENOUGH_EVENTS: Final = 100
"""Events of the candidate, and requests without one, that a planned size must promise to test the difference."""

_SETTLED: Final = 15.0
"""Effective events of each variant, and requests without one, from which the test of the difference begins."""

_FAR: Final = 1.5
"""Size of the large log rate ratios that are looked for beside small ones: a candidate may fail ten times as often."""

_LEAST = -1 + 1e-9
"""A rate cannot fall by more than all of it, whose logarithm is not finite."""


class Method(Enum):
    """How two shares are compared; see this module."""

    RATIO = "ratio"
    BETS = "bets"
    DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True)
class ShareComparison:
    """A :class:`~controller.decision.comparison.Comparison` of shares.

    Attributes:
        sums: events and requests.
        phi: each stratum's design effect on a difference, shape (strata,) or as the sums.
        own_phi: the same on the candidate's own share.
        method: how the shares are compared.
        rho2: of the mixture of a test of the difference; see :class:`~controller.decision.means.MeanComparison`.
        nu: degrees of freedom of the current stratum's design effect.
    """

    sums: StratifiedSums
    phi: Floats
    own_phi: Floats
    method: Method = Method.RATIO
    rho2: float = 0.0
    nu: Floats | float = math.inf

    @classmethod
    def of(
        cls, evidence: RolloutEvidence, metric: Metric, *, planned: float | None = None, alpha: float = 0.05
    ) -> ShareComparison:
        """The requests that a metric counts, among those that it is a share of.

        Args:
            evidence: what was counted.
            metric: a share.
            planned: the candidate's requests at which a decision is planned; None without a plan.
            alpha: of that one-sided decision.
        """
        rows = evidence.rows(metric)
        phi, own_phi = share_design_effect(rows.a, rows.b), candidate_design_effect(rows.a, rows.b)
        return cls(
            StratifiedSums.of(evidence, metric),
            over_moments(phi),
            over_moments(own_phi),
            method_for(known_rate(evidence, metric), planned),
            tuned_rho2(planned, alpha) if planned else 0.0,
            freedom(rows.a, rows.b)[..., -1],
        )

    @classmethod
    def of_slices(
        cls, sums: StratifiedSums, strata: Sequence[tuple[Slices, Slices]], *, method: Method = Method.RATIO
    ) -> ShareComparison:
        """Sums whose design effects are those between slices of users."""
        phi, own_phi = (
            np.stack([effect(a, b) for a, b in strata], axis=-1)
            for effect in (share_design_effect, candidate_design_effect)
        )
        return cls(sums, phi, own_phi, method)

    @property
    def values(self) -> Values:
        """See the protocol."""
        found = self.sums.values(float(self.phi[..., -1].flat[0]))
        share = found.latest or 0.0
        own = float(self.own_phi[..., -1].flat[0])
        return replace(found, own_design_effect=own, variance=own * share * (1 - share))

    @property
    def standardised(self) -> tuple[float, float] | None:
        """See the protocol."""
        return self.sums.standardised

    def moment(self, row: int) -> tuple[float | None, int]:
        """See the protocol."""
        return self.sums.moment(row)

    def earlier(self, row: int) -> float | None:
        """See the protocol."""
        return self.sums.earlier(row)

    def level(self, side: Side, limit: float) -> Floats:
        """See the protocol."""
        phi = self.own_phi
        events, requests = (self.sums.y_b / phi).sum(axis=-1), (self.sums.n_b / phi).sum(axis=-1)
        return log_e_share(events, requests, limit, side=side)

    def increase(self, side: Side, by: float, *, relative: bool) -> Floats:
        """See the protocol."""
        y_a, n_a, y_b, n_b = (array / self.phi for array in self._arrays())
        if self.method is Method.DIFFERENCE:
            return self._log_e_normal(side, by, relative=relative)
        if self.method is Method.BETS and relative:
            return log_e_difference(y_a, n_a, y_b, n_b, 0.0, side=side, scale=1 + max(by, _LEAST))
        if self.method is Method.RATIO and (relative or by == 0):
            # Without a margin both ask the same, and the ratio's test is the stronger one for rare events.
            share = n_b / np.maximum(n_a + n_b, 1e-300)
            return log_e_ratio(y_a, y_b, share, math.log1p(max(by, _LEAST)), side=side, far=_FAR)
        return log_e_difference(y_a, n_a, y_b, n_b, by, side=side)

    def contrast(self) -> tuple[Floats, Floats]:
        """Difference of the shares and its squared standard error, each of shape (1 + moments,)."""
        return self._moved(1.0, 0.0)

    def grown(self, factor: float) -> ShareComparison:
        """See the protocol."""
        nu = self.nu if isinstance(self.nu, float) else self.nu[:1]
        phi, own_phi = (each[:1] if each.ndim > 1 else each for each in (self.phi, self.own_phi))
        return replace(self, sums=self.sums.grown(factor), phi=phi, own_phi=own_phi, nu=nu)

    def _log_e_normal(self, side: Side, by: float, *, relative: bool) -> Floats:
        scale, offset = (1 + max(by, _LEAST), 0.0) if relative else (1.0, by)
        d, v = self._moved(scale, offset)
        fewest = [
            (np.minimum(y, n - y) / self.phi).sum(axis=-1)
            for y, n in ((self.sums.y_a, self.sums.n_a), (self.sums.y_b, self.sums.n_b))
        ]
        enough = (np.minimum(*fewest) >= _SETTLED) & (v > 0) & np.isfinite(v)
        safe = np.where(enough, v, 1.0)
        n = self.sums.n_b.sum(axis=-1)
        log_e = log_e_mean(np.where(enough, d, 0.0), safe, self.rho2 * n * safe, side=side, nu=self.nu)
        return np.where(enough, log_e, 0.0)

    def _moved(self, scale: float, offset: float) -> tuple[Floats, Floats]:
        """Difference of the shares beyond a margin and its squared standard error, under the null hypothesis.

        The control's share a is what the null leaves of both variants' events: ``a = (Y_A + (Y_B - offset N_B)/scale) /
        (N_A + N_B)``, and the candidate's ``scale a + offset``.
        """
        y_a, n_a, y_b, n_b = self._arrays()
        total = np.maximum(n_a + n_b, 1)
        a = np.clip((y_a + (y_b - offset * n_b) / scale) / total, 0.0, 1.0)
        b = np.clip(scale * a + offset, 0.0, 1.0)
        # One variance per request that makes the difference as uncertain as both variants' own do.
        s2 = self.phi * (scale**2 * a * (1 - a) * n_b + b * (1 - b) * n_a) / total
        return combine(n_a, scale * y_a + offset * n_a, n_b, y_b, s2)

    def _arrays(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.sums.y_a, self.sums.n_a, self.sums.y_b, self.sums.n_b


def method_for(rate: float | None, planned: float | None) -> Method:
    """How two shares are compared.

    Args:
        rate: the control's, 0..1, known before what is tested; None where it is not known yet.
        planned: the candidate's requests at which a decision is planned; None without a plan.
    """
    if rate is None:
        return Method.RATIO
    if planned is not None and planned * min(rate, 1 - rate) >= ENOUGH_EVENTS:
        return Method.DIFFERENCE
    return Method.BETS if rate >= FREQUENT else Method.RATIO


def known_rate(evidence: RolloutEvidence, metric: Metric) -> float | None:
    """The control's rate that the method was chosen by, 0..1: the earliest that was kept; None before that."""
    kept = (next(iter(stratum.edges.get(metric.name, ())), None) for stratum in evidence.strata)
    return next((rate for rate in kept if rate is not None), None)
