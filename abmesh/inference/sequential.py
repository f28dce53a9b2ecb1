"""Group-sequential boundaries for a planned number of looks at a planned size. Pure.

Called by the goals of an experiment with ``sequential`` inference, and by ``abmesh plan``.

The probability of a false alarm is spent over the information fraction t, 0..1, after Lan and DeMets, *Discrete
Sequential Boundaries for Clinical Trials*, Biometrika 70 (1983), with the spending that resembles O'Brien and Fleming's
boundaries. Looks need not be planned, nor evenly spaced; only the size at t = 1 must be. Stopping for futility does not
bind: going on after all does not raise the false alarms.

The distribution of the path up to a look is integrated look by look: Armitage, McPherson and Rowe, *Repeated
Significance Tests on Accumulating Data*, Journal of the Royal Statistical Society A 132 (1969).

With B(t) = Z(t) sqrt(t) a Brownian motion with drift, the density f_k of Z at look k without having stopped before
follows from f_(k-1) by the normal step ``B(t_k) - B(t_(k-1)) ~ N(drift (t_k - t_(k-1)), t_k - t_(k-1))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from abmesh.inference.numbers import Floats

_TAIL = 8.5
"""How many standard deviations of Z are integrated."""

_NEGLIGIBLE = 1e-12
"""Spending below this needs no integration: the boundary of a single look is above the exact one, and not visibly."""


_FEWEST_NODES = 400
_MOST_NODES = 1200


def spent(t: float, alpha: float, sides: int) -> float:
    """How much of alpha may be spent up to an information fraction.

    On each side ``2 - 2 Phi(z_{a/2} / sqrt(t))`` with a = alpha / sides.

    Args:
        t: information fraction; above 1 as at 1.
        alpha: probability of a false alarm over all looks and sides.
        sides: 1 or 2.
    """
    if t <= 0:
        return 0.0
    _check_sides(sides)
    z = -float(ndtri(alpha / sides / 2))
    return float(sides * 2 * ndtr(-z / math.sqrt(min(t, 1.0))))


def boundaries(fractions: Sequence[float], alpha: float, *, sides: int) -> tuple[float, ...]:
    """How far from 0 the z-statistic must be at each look.

    Args:
        fractions: information fractions of the looks so far, strictly increasing, in (0, 1]; the last may be below 1.
        alpha: probability of a false alarm over all looks and sides.
        sides: 1 (only ``z >= boundary`` stops) or 2 (``|z| >= boundary`` does, each side at half of alpha).

    Returns:
        A boundary for each look; infinite where there is nothing to spend yet.

    Raises:
        ValueError: fractions are not increasing in (0, 1], or sides is neither 1 nor 2.
    """
    _check_fractions(fractions)
    _check_sides(sides)
    path, found, before = _Path.start(sides), [], 0.0
    for t in fractions:
        allowed = spent(t, alpha, sides)
        step = path.step(t, 0.0)
        boundary = step.boundary((allowed - before) / sides)
        found.append(boundary)
        path = step.until(boundary)
        before = allowed
    return tuple(found)


def stopping(
    fractions: Sequence[float], boundary: Sequence[float], drift: float, *, sides: int = 1
) -> tuple[float, ...]:
    """Probability of stopping at each look.

    Args:
        fractions: information fractions of the looks, strictly increasing, in (0, 1].
        boundary: the boundary at each look, from :func:`boundaries`.
        drift: expected z-statistic at t = 1.
        sides: 1 or 2; with 2 the probabilities of both sides are added.

    Raises:
        ValueError: fractions are not increasing in (0, 1], there are more or fewer boundaries than looks, or sides is
            neither 1 nor 2.
    """
    _check_fractions(fractions)
    _check_sides(sides)
    path, found = _Path.start(sides), []
    for t, limit in zip(fractions, boundary, strict=True):
        step = path.step(t, drift)
        found.append(step.above(limit) + (step.below(-limit) if sides == 2 else 0.0))
        path = step.until(limit)
    return tuple(found)


def inflation(looks: int, alpha: float, power: float, sides: int) -> float:
    """Largest size of a group-sequential design with evenly spaced looks, relative to the design with one look.

    Args:
        looks: how many, 1 or more.
        alpha: probability of a false alarm.
        power: probability of finding the effect that the design is for, on its side; above ``alpha / sides``.
        sides: 1 or 2.
    """
    fractions = [look / looks for look in range(1, looks + 1)]
    limits = boundaries(fractions, alpha, sides=sides)
    single = float(ndtri(power) - ndtri(alpha / sides))

    def missing(drift: float) -> float:
        return sum(stopping(fractions, limits, drift)) - power

    drift = float(brentq(missing, 0.5 * single, 2.0 * single, xtol=1e-10))
    return (drift / single) ** 2


@dataclass(frozen=True, slots=True)
class _Path:
    """Nodes of Z at the last look, and the probability at each of not having stopped, as quadrature weights."""

    sides: int
    t: float
    z: Floats
    mass: Floats

    @classmethod
    def start(cls, sides: int) -> _Path:
        return cls(sides, 0.0, np.zeros(1), np.ones(1))

    def step(self, t: float, drift: float) -> _Step:
        wait = t - self.t
        mean = (self.z * math.sqrt(self.t) + drift * wait) / math.sqrt(t)
        return _Step(self, t, mean, math.sqrt(wait / t), drift)


@dataclass(frozen=True, slots=True)
class _Step:
    """Z at the next look: a mixture of normal distributions around ``mean``, one for each node of the last look."""

    path: _Path
    t: float
    mean: Floats
    deviation: float
    drift: float

    def above(self, limit: float) -> float:
        return float((self.path.mass * ndtr((self.mean - limit) / self.deviation)).sum())

    def below(self, limit: float) -> float:
        return float((self.path.mass * ndtr((limit - self.mean) / self.deviation)).sum())

    def boundary(self, probability: float) -> float:
        """Where exactly this probability lies above."""
        if probability < _NEGLIGIBLE:
            return -float(ndtri(probability)) if probability > 0 else math.inf
        wanted = math.log(probability)
        # The smallest mass is far below any probability that is asked for, and no logarithm of 0 is taken.
        logs = np.log(np.maximum(self.path.mass, 1e-300))

        def excess(limit: float) -> float:
            return float(np.logaddexp.reduce(logs + log_ndtr((self.mean - limit) / self.deviation))) - wanted

        return float(brentq(excess, -_TAIL, 2 * _TAIL, xtol=1e-12))

    def until(self, limit: float) -> _Path:
        """The path if it does not stop at this limit."""
        centre = self.drift * math.sqrt(self.t)
        low, high = min(0.0, centre) - _TAIL, max(0.0, centre) + _TAIL
        if self.path.sides == 2:
            low = max(low, -limit)
        high = min(high, limit)
        # The nodes must be denser than the next look's normal distribution is wide; that look is not known yet, but is
        # as a rule about as far away as the last one was.
        count = int(np.clip(8 * (high - low) / self.deviation, _FEWEST_NODES, _MOST_NODES))
        nodes, weights = _simpson(count)
        z = low + (high - low) * (nodes + 1) / 2
        scaled = (z[:, None] - self.mean) / self.deviation
        density = np.exp(-0.5 * scaled**2) @ self.path.mass / (self.deviation * math.sqrt(2 * math.pi))
        return _Path(self.path.sides, self.t, z, density * weights * (high - low) / 2)


def _simpson(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights of Simpson's rule on -1..1."""
    intervals = 2 * (count // 2)
    weights = np.full(intervals + 1, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return np.linspace(-1.0, 1.0, intervals + 1), weights * 2 / (3 * intervals)


def _check_sides(sides: int) -> None:
    if sides not in (1, 2):
        raise ValueError(f"a test has 1 or 2 sides; found {sides}")


def _check_fractions(fractions: Sequence[float]) -> None:
    previous = 0.0
    for t in fractions:
        if not previous < t <= 1:
            raise ValueError(
                f"information fractions increase from above 0 to at most 1; found {t:g} after {previous:g}: "
                "leave out a look that brought nothing new, and use 1 for the look at the planned size"
            )
        previous = t
