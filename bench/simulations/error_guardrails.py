"""Guardrails on the error rate as they run: counts divided by their design effect, where users come back.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests. The comparison is the controller's own; a
single one serves all looks of many runs, which take the place of its moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from abmesh.inference.numbers import Floats, Side, Slices
from bench.simulations.means import returning
from bench.simulations.outcome import Outcome
from bench.simulations.users import Population, batches, heavy_tailed
from controller.decision.comparison import StratifiedSums
from controller.decision.shares import ShareComparison

ALPHA: Final = 0.05
_LIMIT: Final = -math.log(ALPHA)
_SLICES: Final = 50
_MARGIN: Final = 0.2

Question = Callable[[ShareComparison], Floats]
"""From a comparison at all looks to the evidence at each."""


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    found: list[Outcome] = []
    for number, (rate, share, wanted) in enumerate(((0.05, 0.05, 0.9), (0.05, 0.5, None), (0.005, 0.05, 0.5))):
        found += sticky(runs, (seed, number), rate, share, wanted)
    return found


def sticky(runs: int, seed: Sequence[int], rate: float, share: float, wanted: float | None) -> list[Outcome]:
    """10,000 users of whom a few send most of the requests, each with an error rate of their own, 60 looks.

    Args:
        runs: simulated experiments.
        seed: of the random numbers.
        rate: of the control's errors.
        share: of the users who get the candidate.
        wanted: how often doubled errors must be found; None to leave it out.
    """
    check = f"error_rate guardrail, {share:.0%} of 10,000 users of 1 to 200 requests, {rate:.1%} errors, 60 looks"
    by = rate * _MARGIN
    scenes: list[tuple[str, float, dict[str, Question]]] = [
        (
            "same",
            1.0,
            {
                "worse than the control": lambda found: found.increase(Side.GREATER, 0.0, relative=True),
                "harmful, exactly at max": lambda found: found.level(Side.GREATER, rate),
                "healthy, exactly at max": lambda found: found.level(Side.LESS, rate),
            },
        ),
        (
            f"rate x {1 + _MARGIN:g}",
            1 + _MARGIN,
            {
                "harmful, exactly at a relative margin": lambda f: f.increase(Side.GREATER, _MARGIN, relative=True),
                "healthy, exactly at a relative margin": lambda f: f.increase(Side.LESS, _MARGIN, relative=True),
                "harmful, exactly at an absolute margin": lambda f: f.increase(Side.GREATER, by, relative=False),
                "healthy, exactly at an absolute margin": lambda f: f.increase(Side.LESS, by, relative=False),
            },
        ),
    ]
    outcomes = []
    for truth, factor, questions in scenes:
        found = count(rate, share, factor, questions, runs, seed)
        outcomes += [Outcome(check, name, truth, runs, found[name], allowed=ALPHA) for name in questions]
    if wanted is not None:
        question = {"worse than the control": scenes[0][2]["worse than the control"]}
        ((name, hits),) = count(rate, share, 2.0, question, runs, seed).items()
        outcomes.append(Outcome(check, name, "errors doubled", runs, hits, wanted=wanted))
    return outcomes


def count(
    rate: float, share: float, factor: float, questions: Mapping[str, Question], runs: int, seed: Sequence[int]
) -> dict[str, int]:
    """In how many of the runs each question was answered with yes at some look."""
    rng = np.random.default_rng([*seed, round(100 * factor)])
    population = Population(10_000, share, _SLICES, 60, heavy_tailed)
    scene = returning(population, rate, 0.5 / rate, factor)
    found = dict.fromkeys(questions, 0)
    for size in batches(runs):
        (a,), (b,) = scene(rng, size)
        comparison = compared(a, b)
        for name, question in questions.items():
            log_e = question(comparison).reshape(size, population.looks)
            found[name] += int((log_e.max(axis=-1) >= _LIMIT).sum())
    return found


def compared(a: Slices, b: Slices) -> ShareComparison:
    """The controller's comparison at every look of every run; slices have shape (runs, looks, slices)."""
    sums = StratifiedSums(*(values.reshape(-1, 1) for values in (a.total_y, a.total_n, b.total_y, b.total_n)))
    rows = [Slices(arm.n.reshape(-1, arm.n.shape[-1]), arm.y.reshape(-1, arm.y.shape[-1])) for arm in (a, b)]
    return ShareComparison.of_slices(sums, [(rows[0], rows[1])])
