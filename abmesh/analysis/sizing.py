"""How many requests the tests that run need, where no formula holds: by simulating them. Pure.

Called by :mod:`abmesh.analysis.planning`. An experiment that may be looked at any number of times ends when its e-value
first reaches a threshold. So a size is a quantile of that moment: at the size for a power of 80%, 80% of simulated
experiments have reached it. Each :class:`Rule` is made of the very comparison that decides or reports, on counts drawn
look by look; :mod:`abmesh.analysis.rules` has them. A test that is tuned for its size is simulated again, tuned
for what was found, until that no longer moves the size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from abmesh.inference.numbers import Floats

LOOKS: Final = 100
"""Evenly spaced looks up to a size."""

RUNS: Final = 2_000
"""Simulated experiments that a size is taken from."""

_FIRST_REACH = 3.0
"""How far beyond the assumed size the first simulation goes."""

_REACH = 1.25
"""How far the others go."""

_ROUNDS = 3
"""How many there are. The size is the average of all but the first, which is not tuned for the right size yet."""

_OTHERS = 1_000_000
"""Part of a seed that no round has."""

_LARGEST = 1e15
"""Requests beyond which no size is looked for: more cannot be counted exactly."""


class Rule(Protocol):
    """A test that runs, on simulated experiments in which the candidate truly differs."""

    @property
    def threshold(self) -> float:
        """Logarithm of the e-value that finds the difference."""
        ...

    def paths(self, random: np.random.Generator, control: Floats, candidate: Floats, size: float, runs: int) -> Floats:
        """Logarithms of the e-values of some experiments at every look, shape (runs, looks).

        Args:
            random: draws what is counted.
            control: the control's requests at every look, rising, shape (looks,).
            candidate: the candidate's, same.
            size: the candidate's requests that the test is tuned for.
            runs: how many experiments.
        """
        ...


@dataclass(frozen=True, slots=True)
class Size:
    """A size, and what simulations with other random numbers say about it.

    Attributes:
        control: the control's requests, not rounded.
        power: share of the simulated experiments that found the difference at one of the looks up to this size.
        at_end: share of those whose last look, at this size, alone finds it.
        runs: how many were simulated.
    """

    control: float
    power: float
    at_end: float
    runs: int

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of the power."""
        return math.sqrt(self.power * (1 - self.power) / self.runs)


def size_for(rule: Rule, start: float, ratio: float, power: float, *, runs: int = RUNS, seed: int = 1) -> Size | None:
    """The control's requests at which a test has a power.

    Args:
        rule: the test, as it runs.
        start: about what is expected, above 0.
        ratio: the candidate's requests over the control's.
        power: 0..1.
        runs: simulated experiments.
        seed: of the random numbers.

    Returns:
        None where more than 10^15 requests would be needed.
    """
    if start * max(1.0, ratio) > _LARGEST:
        return None
    size, few = max(start, 1.0), max(runs // 8, 100)
    # The first rounds only find out where to look; the others are tuned for what the one before found.
    rough = None
    number = 0
    while rough is None:
        rough = _moment(rule, size, ratio, power, _FIRST_REACH, few, np.random.default_rng([seed, number]))
        size, number = size * 2 if rough is None else rough, number + 1
        if size * max(1.0, ratio) > _LARGEST:
            return None
    rounds: list[float] = []
    while len(rounds) < _ROUNDS:
        many = runs if rounds else max(runs // 4, few)
        found = _moment(rule, size, ratio, power, _REACH, many, np.random.default_rng([seed, number]))
        size, number = size * _REACH if found is None else found, number + 1
        rounds += [] if found is None else [found]
    return power_at(rule, sum(rounds[1:]) / len(rounds[1:]), ratio, runs=runs, seed=seed)


def power_at(rule: Rule, control: float, ratio: float, *, runs: int = RUNS, seed: int = 1) -> Size:
    """How often a test finds its difference by a number of the control's requests; arguments as for :func:`size_for`.

    The random numbers are others than those that a size is found with.
    """
    e_values = _paths(rule, control, ratio, 1.0, runs, np.random.default_rng([seed, _OTHERS]))
    found = e_values >= rule.threshold
    return Size(control, float(found.any(axis=1).mean()), float(found[:, -1].mean()), runs)


def _moment(
    rule: Rule, size: float, ratio: float, power: float, reach: float, runs: int, random: np.random.Generator
) -> float | None:
    """The control's requests by which a share of the experiments have found the difference; None if too few do."""
    found = _paths(rule, size, ratio, reach, runs, random) >= rule.threshold
    first = np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, math.inf)
    moment = float(np.sort(first)[min(math.ceil(power * runs), runs) - 1])
    return size * moment / LOOKS if math.isfinite(moment) else None


def _paths(rule: Rule, size: float, ratio: float, reach: float, runs: int, random: np.random.Generator) -> Floats:
    steps = np.arange(1, round(LOOKS * reach) + 1) / LOOKS
    control, candidate = np.rint(size * steps), np.rint(size * ratio * steps)
    return rule.paths(random, control, candidate, size * ratio, runs)
