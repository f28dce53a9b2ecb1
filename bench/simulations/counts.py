"""Counts of rare errors on a small canary, looked at all the time: exact e-values against plug-in variances.

The comparison is the controller's own, of users who send one request each. Called by ``python -m bench.simulations``
and, with fewer runs, by the tests; :mod:`bench.simulations.reports` draws its counts here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.means import best_rho2
from abmesh.inference.numbers import Floats, Side
from bench.simulations.outcome import Outcome
from controller.decision.comparison import StratifiedSums
from controller.decision.shares import Method, ShareComparison

ALPHA = 0.05
_REJECT = -math.log(ALPHA)
_CHUNK = 50
"""Runs at a time: the grids of alternatives would not fit into memory for all of them."""


class Data(NamedTuple):
    """Events and requests of control and candidate up to each look, each of shape (runs, looks) or (runs, looks, S)."""

    s_a: Floats
    n_a: Floats
    s_b: Floats
    n_b: Floats


Rule = Callable[[Data], NDArray[np.bool_]]
"""Whether each look of each run alarms."""


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    return [*rare_errors(runs, seed), *differences(runs, seed + 1), *ramp(runs, seed + 2), *limits(runs, seed + 3)]


def rare_errors(runs: int, seed: int) -> list[Outcome]:
    """0.2% errors on a 5% canary, 1,000 looks up to 250,000 requests: is the candidate's rate higher?"""
    check, share = "rare errors (0.2%), 5% canary, 1,000 looks", 0.05

    def higher(data: Data) -> NDArray[np.bool_]:
        return one_stage(data).increase(Side.GREATER, 0.0, relative=True) >= _REJECT

    def plug_in(data: Data) -> NDArray[np.bool_]:
        n = data.n_a + data.n_b
        rho2 = best_rho2(ALPHA, float(n.max()) / 2)
        r = rho2 * n
        return np.abs(_z(data, 0.0)) >= np.sqrt(2 * (r + 1) / r * np.log(np.sqrt(r + 1) / ALPHA))

    rules: dict[str, Rule] = {
        "ratio of rates, higher": higher,
        "naive: confidence sequence with plug-in variance": plug_in,
    }
    same = tallied(rules, runs, seed, 1000, 250, share, 0.002, 0.002)
    doubled = tallied(rules, runs, seed, 1000, 250, share, 0.002, 0.004)
    return reported(check, same, runs, "same") + reported(check, doubled, runs, "errors doubled", 0.8)


def differences(runs: int, seed: int) -> list[Outcome]:
    """0.2% errors on a 5% canary, 500 looks: is the increase above, or below, a margin of 0.2 points?"""
    check, share, margin = "absolute increase against a margin of 0.2 points, 5% canary, 500 looks", 0.05, 0.002

    def bets(side: Side) -> Rule:
        return lambda data: one_stage(data).increase(side, margin, relative=False) >= _REJECT

    above: dict[str, Rule] = {
        "bets on the difference, above": bets(Side.GREATER),
        "naive z at every look, above": lambda data: _z(data, margin) >= 1.645,
    }
    below: dict[str, Rule] = {
        "bets on the difference, below": bets(Side.LESS),
        "naive z at every look, below": lambda data: _z(data, margin) <= -1.645,
    }
    found: list[Outcome] = []
    for rules, truth, p_b in ((above, "0.2% to 0.8%", 0.008), (below, "0.2% both", 0.002)):
        found += reported(check, tallied(rules, runs, seed, 500, 600, share, 0.002, 0.004), runs, "at the margin")
        found += reported(check, tallied(rules, runs, seed, 500, 600, share, 0.002, p_b), runs, truth, 0.8)
    return found


def ramp(runs: int, seed: int) -> list[Outcome]:
    """A ramp of 5, 25 and 50% whose base rate goes from 0.2% to 3%, 100 looks each: an increase at the margin."""
    check, margin, looks, per_look = "absolute increase on a ramp with drift, 300 looks", 0.002, 100, 200
    strata = ((0.05, 0.002), (0.25, 0.03), (0.5, 0.01))
    rng = np.random.default_rng(seed)
    found = {True: 0, False: 0}
    for size in _chunks(runs):
        sums = Data(*np.zeros((4, size, looks * len(strata), len(strata))))
        for index, (share, base) in enumerate(strata):
            data = cumulated(rng, size, looks, per_look, share, base, base + margin)
            start = index * looks
            for kept, values in zip(sums, data, strict=True):
                kept[:, start : start + looks, index] = values
                kept[:, start + looks :, index] = values[:, -1:]
        for stratified in found:
            seen = sums if stratified else Data(*(kept.sum(axis=-1, keepdims=True) for kept in sums))
            log_e = compared(seen).increase(Side.GREATER, margin, relative=False)
            found[stratified] += int((log_e >= _REJECT).any(axis=1).sum())
    return [
        Outcome(check, "bets on the difference, over strata", "at the margin", runs, found[True], allowed=ALPHA),
        Outcome(check, "naive: stages pooled", "at the margin", runs, found[False]),
    ]


def limits(runs: int, seed: int) -> list[Outcome]:
    """1% errors against a limit of 1%, 500 looks at 20,000 requests of one variant."""
    check, limit = "error rate against a limit of 1%, 500 looks", 0.01

    def mixture(side: Side) -> Rule:
        return lambda data: one_stage(data).level(side, limit) >= _REJECT

    def naive(data: Data) -> NDArray[np.bool_]:
        deviation = np.sqrt(limit * (1 - limit) * data.n_b)
        return data.s_b - limit * data.n_b >= 1.645 * deviation

    above: dict[str, Rule] = {
        "one variant's share, above": mixture(Side.GREATER),
        "naive z at every look, above": naive,
    }
    below: dict[str, Rule] = {"one variant's share, below": mixture(Side.LESS)}
    found = reported(check, tallied(above | below, runs, seed, 500, 80, 0.5, limit, limit), runs, "at the limit")
    found += reported(check, tallied(above, runs, seed, 500, 80, 0.5, 0.01, 0.013), runs, "1.3%", 0.8)
    found += reported(check, tallied(below, runs, seed, 500, 80, 0.5, 0.01, 0.007), runs, "0.7%", 0.8)
    return found


def reported(check: str, found: dict[str, int], runs: int, truth: str, wanted: float | None = None) -> list[Outcome]:
    """Outcomes of some rules; nothing is asked of the naive ones."""
    allowed = ALPHA if wanted is None else None
    return [
        Outcome(check, rule, truth, runs, count)
        if rule.startswith("naive")
        else Outcome(check, rule, truth, runs, count, allowed=allowed, wanted=wanted)
        for rule, count in found.items()
    ]


def tallied(
    rules: dict[str, Rule], runs: int, seed: int, looks: int, per_look: int, share: float, p_a: float, p_b: float
) -> dict[str, int]:
    """In how many runs each rule alarms at any look; all rules see the same runs."""
    rng = np.random.default_rng([seed, round(1e6 * p_a), round(1e6 * p_b)])
    found = dict.fromkeys(rules, 0)
    for size in _chunks(runs):
        data = cumulated(rng, size, looks, per_look, share, p_a, p_b)
        for name, rule in rules.items():
            found[name] += int(rule(data).any(axis=1).sum())
    return found


def _chunks(runs: int) -> Iterator[int]:
    for start in range(0, runs, _CHUNK):
        yield min(_CHUNK, runs - start)


def cumulated(
    rng: np.random.Generator, runs: int, looks: int, per_look: int, share: float, p_a: float, p_b: float
) -> Data:
    """Counts up to each look; a share of the requests is the candidate's."""
    new_b = rng.binomial(per_look, share, (runs, looks))
    new_a = per_look - new_b
    events = rng.binomial(new_a, p_a), rng.binomial(new_b, p_b)
    return Data(*(x.cumsum(axis=1).astype(np.float64) for x in (events[0], new_a, events[1], new_b)))


def one_stage(data: Data, *, frequent: bool = False) -> ShareComparison:
    """The controller's comparison at every look of every run, which take the place of its moments; or a table's."""
    return compared(Data(*(x[..., None] for x in data)), frequent=frequent)


def compared(data: Data, *, frequent: bool = False) -> ShareComparison:
    """The same of several stages, which are the last axis."""
    sums = StratifiedSums(y_a=data.s_a, n_a=data.n_a, y_b=data.s_b, n_b=data.n_b)
    alike = np.ones(data.s_a.shape[-1])
    return ShareComparison(sums, alike, alike, Method.BETS if frequent else Method.RATIO)


def _z(data: Data, margin: float) -> Floats:
    """The z-statistic with each arm's own variance plugged in; 0 where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_a, p_b = data.s_a / data.n_a, data.s_b / data.n_b
        z = (p_b - p_a - margin) / np.sqrt(p_a * (1 - p_a) / data.n_a + p_b * (1 - p_b) / data.n_b)
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)
