"""What ``abmesh analyze`` says about rates, looked at all the time and at planned looks.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.analysis.textbook import at_planned_looks
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.sequential import boundaries
from bench.simulations.counts import Data, Rule, compared, one_stage, reported, tallied
from bench.simulations.outcome import Outcome

ALPHA: Final = 0.05
_LOOKS: Final = 5
_PLANNED: Final = 5_000


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    return [*any_look(runs, seed), *planned_looks(runs, seed + 1)]


def any_look(runs: int, seed: int) -> list[Outcome]:
    """Rare and common events, 100 looks: is p ever at most alpha, in a table or as a decision tests it?"""

    def both_sides(*, frequent: bool) -> Rule:
        def rule(data: Data) -> NDArray[np.bool_]:
            found = one_stage(data, frequent=frequent)
            sides = [found.increase(side, 0.0, relative=True) for side in (Side.GREATER, Side.LESS)]
            return np.asarray(np.maximum(*sides) >= math.log(2 / ALPHA))

        return rule

    table, judged = both_sides(frequent=True), both_sides(frequent=False)
    found: list[Outcome] = []
    for check, per_look, share, p_a, p_b, truth, wanted in (
        ("0.2% errors, 5% canary, 100 looks", 2_500, 0.05, 0.002, 0.004, "errors doubled", 0.8),
        ("90% events, 50%, 100 looks", 200, 0.5, 0.9, 0.92, "90% against 92%", None),
    ):
        rules: dict[str, Rule] = {"bets on both sides": table, "ratio of rates, as in decisions": judged}
        check = f"report at any look: {check}"
        found += reported(check, tallied(rules, runs, seed, 100, per_look, share, p_a, p_a), runs, "same")
        different = tallied(rules, runs, seed, 100, per_look, share, p_a, p_b)
        # The ratio's test knows events only: of frequent ones it sees little.
        least = {name: 0.8 if rules[name] is table else wanted for name in rules}
        found += [Outcome(check, name, truth, runs, hits, wanted=least[name]) for name, hits in different.items()]
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
            looks = _looks(rng, 0.002, factor)
            ours += any(at_planned_looks(compared(look), ALPHA, _PLANNED, _LOOKS).significant for look in looks)
            naive += any(_own(look) >= limit for look, limit in zip(looks, limits, strict=True))
        allowed, wanted = (ALPHA, None) if factor == 1 else (None, 0.7)
        found.append(Outcome(check, "variance in common", truth, runs, ours, allowed, wanted))
        found.append(Outcome(check, "naive: each variant's own variance", truth, runs, naive))
    return found


def _looks(rng: np.random.Generator, rate: float, factor: float) -> list[Data]:
    """Both variants at each look, which falls where the candidate has a fifth more of its requests."""
    n_b = _PLANNED // _LOOKS
    n_a = 19 * n_b
    s_a, s_b = rng.binomial(n_a, rate, _LOOKS).cumsum(), rng.binomial(n_b, rate * factor, _LOOKS).cumsum()

    def row(value: float) -> Floats:
        return np.array([[float(value)]])

    return [
        Data(row(s_a[look - 1]), row(n_a * look), row(s_b[look - 1]), row(n_b * look)) for look in range(1, _LOOKS + 1)
    ]


def _own(look: Data) -> float:
    """How many standard errors the difference is from 0, each variant's own variance plugged in."""
    s_a, n_a, s_b, n_b = (float(value[0, 0]) for value in look)
    p_a, p_b = s_a / n_a, s_b / n_b
    v = p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b
    return abs(p_b - p_a) / math.sqrt(v) if v > 0 else 0.0
