"""What ``abmesh analyze`` says about rates, looked at all the time and at planned looks.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.analysis.anytime import standardised
from abmesh.analysis.plain import at_planned_looks
from abmesh.analysis.records import Metric, Sums
from abmesh.inference.counts import log_e_difference
from abmesh.inference.numbers import Side
from abmesh.inference.sequential import boundaries
from bench.simulations.counts import Data, Rule, reported, tallied
from bench.simulations.outcome import Outcome

ALPHA: Final = 0.05
_RATE: Final = Metric("errors", "rate", "share")
_LOOKS: Final = 5
_PLANNED: Final = 5_000


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    return [*any_look(runs, seed), *planned_looks(runs, seed + 1)]


def any_look(runs: int, seed: int) -> list[Outcome]:
    """Rare and common events, 100 looks: is p at most alpha ever?"""

    def bets(data: Data) -> NDArray[np.bool_]:
        s_a, n_a, s_b, n_b = (x[..., None] for x in data)
        sides = [log_e_difference(s_a, n_a, s_b, n_b, 0.0, side=side) for side in (Side.GREATER, Side.LESS)]
        return np.maximum(*sides) >= math.log(2 / ALPHA)

    rules: dict[str, Rule] = {"bets on both sides": bets}
    found: list[Outcome] = []
    for check, per_look, share, p_a, p_b, truth in (
        ("report at any look: 0.2% errors, 5% canary, 100 looks", 2_500, 0.05, 0.002, 0.004, "errors doubled"),
        ("report at any look: 90% events, 50%, 100 looks", 200, 0.5, 0.9, 0.92, "90% against 92%"),
    ):
        found += reported(check, tallied(rules, runs, seed, 100, per_look, share, p_a, p_a), runs, "same")
        found += reported(check, tallied(rules, runs, seed, 100, per_look, share, p_a, p_b), runs, truth, 0.8)
    return found


def planned_looks(runs: int, seed: int) -> list[Outcome]:
    """0.2% errors, five looks at 1,000 to 5,000 requests of a 5% canary: is a boundary crossed at one of them?"""
    check = "report at planned looks: 0.2% errors, 5% canary, 5 looks, 5,000 requests of it"
    limits = boundaries([look / _LOOKS for look in range(1, _LOOKS + 1)], ALPHA, sides=2)
    found: list[Outcome] = []
    for factor, truth in ((1.0, "same"), (2.0, "errors doubled")):
        rng = np.random.default_rng([seed, round(100 * factor)])
        ours = naive = 0
        for _ in range(runs):
            arms = _arms(rng, 0.002, factor)
            ours += any(at_planned_looks(_RATE, [pair], ALPHA, _PLANNED, _LOOKS).significant for pair in arms)
            naive += any(_own(pair) >= limit for pair, limit in zip(arms, limits, strict=True))
        allowed, wanted = (ALPHA, None) if factor == 1 else (None, 0.7)
        found.append(Outcome(check, "variance in common", truth, runs, ours, allowed, wanted))
        found.append(Outcome(check, "naive: each variant's own variance", truth, runs, naive))
    return found


def _arms(rng: np.random.Generator, rate: float, factor: float) -> list[tuple[Sums, Sums]]:
    """Both variants at each look, which falls where the candidate has a fifth more of its requests."""
    n_b = _PLANNED // _LOOKS
    n_a = 19 * n_b
    s_a, s_b = rng.binomial(n_a, rate, _LOOKS).cumsum(), rng.binomial(n_b, rate * factor, _LOOKS).cumsum()
    return [
        (Sums(n_a * look, float(s_a[look - 1])), Sums(n_b * look, float(s_b[look - 1])))
        for look in range(1, _LOOKS + 1)
    ]


def _own(pair: tuple[Sums, Sums]) -> float:
    """How many standard errors the difference is from 0, each variant's own variance plugged in."""
    found = standardised([pair])
    v = found.v_a + found.v_b
    return abs(found.b - found.a) / math.sqrt(v) if v > 0 else 0.0
