"""The tests that run, on simulated experiments, for :mod:`abmesh.analysis.sizing`. Pure.

A report compares what a file holds as :mod:`abmesh.analysis.table_comparisons` does, tuned for the size. A goal is
compared over slices of users, whose spread says how much the requests of one user are alike, as
:mod:`controller.decision.goals` does. Users who repeat are drawn as users who send ``design_effect`` requests each, all
alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from abmesh.analysis.table_comparisons import of_rates, share_test
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.variance import freedom
from controller.decision.comparison import Comparison, StratifiedSums
from controller.decision.means import MeanComparison, tuned_rho2
from controller.decision.shares import ShareComparison, method_for
from controller.decision.variances import SliceVariances

_CELLS = 1_000_000
"""Numbers that are compared at a time, to bound the memory."""

_OF_BETS = 200
"""About how many numbers a bet makes of one look."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is true in the simulated experiments.

    Attributes:
        control: the control's value: a share in 0..1, or a mean.
        candidate: the candidate's.
        sd: standard deviation of a mean's values; None for a share.
        design_effect: how many requests are worth one independent request.
    """

    control: float
    candidate: float
    sd: float | None = None
    design_effect: float = 1.0

    @property
    def side(self) -> Side:
        """Where the candidate differs to."""
        return Side.GREATER if self.candidate > self.control else Side.LESS

    def sums(self, random: np.random.Generator, value: float, n: Floats, shape: tuple[int, ...]) -> Floats:
        """Sums of a variant's values after each number of requests.

        Args:
            random: draws them.
            value: the variant's.
            n: its requests at every look, rising; the last axis of the result.
            shape: of the result's other axes.
        """
        effect, size = self.design_effect, (*shape, len(n))
        if self.sd is None:
            # Whole users: what is left of one is carried over to the next look.
            users = np.diff(np.floor(n / effect), prepend=0.0).astype(np.int64)
            drawn = random.binomial(users, value, size).astype(np.float64)
        else:
            more = np.diff(n / effect, prepend=0.0)
            drawn = random.normal(more * value, self.sd * np.sqrt(more), size)
        return np.asarray(drawn.cumsum(axis=-1) * effect)


@dataclass(frozen=True, slots=True)
class ReportRule:
    """What ``abmesh analyze`` says of a table at any look; see :class:`~abmesh.analysis.sizing.Rule`.

    Attributes:
        truth: the difference.
        alpha: of the report, 0..1.
        sides: 1 or 2.
    """

    truth: Difference
    alpha: float
    sides: int = 2

    @property
    def threshold(self) -> float:
        """See the protocol."""
        return math.log(self.sides / self.alpha)

    def paths(self, random: np.random.Generator, control: Floats, candidate: Floats, size: float, runs: int) -> Floats:
        """See the protocol."""
        truth, per_run = self.truth, len(control)
        batch = max(1, _CELLS // (per_run * (_OF_BETS if truth.sd is None else 10)))
        found = []
        for begin in range(0, runs, batch):
            many = min(batch, runs - begin)
            y_a = truth.sums(random, truth.control, control, (many,)).reshape(-1, 1)
            y_b = truth.sums(random, truth.candidate, candidate, (many,)).reshape(-1, 1)
            n_a, n_b = (np.tile(n, many).reshape(-1, 1) for n in (control, candidate))
            made = self._comparison(StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b), size)
            found.append(made.increase(truth.side, 0.0, relative=False).reshape(many, per_run))
        return np.concatenate(found)

    def _comparison(self, sums: StratifiedSums, size: float) -> Comparison:
        truth, n = self.truth, sums.n_a
        if truth.sd is None:
            # The rate of both together, as a report takes it.
            requests = n[-1, 0] + sums.n_b[-1, 0]
            events = truth.control * n[-1, 0] + truth.candidate * sums.n_b[-1, 0]
            method, rho2 = share_test(events, requests, size, 2 * self.alpha / self.sides)
            found = of_rates(sums, method, rho2)
            phi = np.full(1, truth.design_effect)
            return replace(found, phi=phi, own_phi=phi)
        known = _Known(np.full(n.shape, truth.sd**2 * truth.design_effect))
        return MeanComparison(sums, sums, known, tuned_rho2(size, self.alpha / self.sides), math.inf)


@dataclass(frozen=True, slots=True)
class _Known:
    """A variance per request that both variants share, as :class:`~controller.decision.variances.Variances`."""

    variance: Floats

    def compared(self, scale: float, offset: float) -> Floats:  # noqa: ARG002 - moving all values changes no variance
        return self.variance * (scale**2 + 1) / 2

    def candidate(self) -> Floats:
        return self.variance


@dataclass(frozen=True, slots=True)
class GoalRule:
    """How an experiment's goal is found better at any look; see :class:`~abmesh.analysis.sizing.Rule`.

    Attributes:
        truth: the difference.
        alpha_better: the rollout's probability of calling a candidate better by mistake, 0..1.
        slices: of the experiment.
        tuned_for: the candidate's requests and the alpha that the test is tuned for where no size is planned, as in a
            rollout whose goal is only reported; None where the size is planned.
    """

    truth: Difference
    alpha_better: float
    slices: int
    tuned_for: tuple[float, float] | None = None

    @property
    def threshold(self) -> float:
        """See the protocol."""
        return -math.log(self.alpha_better)

    def paths(self, random: np.random.Generator, control: Floats, candidate: Floats, size: float, runs: int) -> Floats:
        """See the protocol."""
        truth, per_run = self.truth, len(control)
        batch = max(1, _CELLS // (per_run * self.slices))
        found = []
        for begin in range(0, runs, batch):
            many = min(batch, runs - begin)
            a = self._slices(random, truth.control, control, many)
            b = self._slices(random, truth.candidate, candidate, many)
            e_values = self._comparison(a, b, size).increase(truth.side, 0.0, relative=truth.sd is None)
            found.append(e_values.reshape(many, per_run))
        return np.concatenate(found)

    def _slices(self, random: np.random.Generator, value: float, n: Floats, runs: int) -> Slices:
        """One variant's slices at every look of some experiments, shape (runs x looks, slices)."""
        each = np.arange(self.slices)
        parts = np.floor((n[:, None] + each) / self.slices)  # (looks, slices): whole requests that add up to n
        y = np.stack([self.truth.sums(random, value, parts[:, index], (runs,)) for index in each], axis=-1)
        return Slices(np.broadcast_to(parts, y.shape).reshape(-1, self.slices), y.reshape(-1, self.slices))

    def _comparison(self, a: Slices, b: Slices, size: float) -> Comparison:
        y_a, n_a, y_b, n_b = (total[:, None] for total in (a.total_y, a.total_n, b.total_y, b.total_n))
        sums = StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b)
        requests, alpha = self.tuned_for or (size, self.alpha_better)
        if self.truth.sd is None:
            method = method_for(self.truth.control, None if self.tuned_for else size)
            found = ShareComparison.of_slices(sums, [(a, b)], method=method)
            return replace(found, rho2=tuned_rho2(requests, alpha), nu=freedom(a, b))
        variances = SliceVariances.of([(a, b)])
        return MeanComparison(sums, sums, variances, tuned_rho2(requests, alpha), variances.freedom)
