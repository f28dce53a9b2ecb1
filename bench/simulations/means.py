"""Simulations of means and ratios: looking often, ramps, users who come back, small canaries, heavy tails.

Run by :mod:`bench.simulations` and, with fewer runs, by the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from abmesh.inference.numbers import Side, Slices
from bench.simulations.mean_rules import ALPHA, Rule, Strata, ours, own_slices, per_request, pooled_stages, repeated_t
from bench.simulations.outcome import Outcome
from bench.simulations.users import Population, about_twenty, arms, batches, draw, heavy_tailed, user_rates

_LIMIT: Final = -math.log(ALPHA)
_SLICES: Final = 50

Scene = Callable[[np.random.Generator, int], tuple[Strata, Strata]]
"""Draws a batch of experiments: strata of the control and of the candidate."""


def count(scene: Scene, rules: Mapping[str, Rule], runs: int, seed: Sequence[int]) -> dict[str, int]:
    """In how many of the runs each rule raised an alarm at some look."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(rules, 0)
    for size in batches(runs):
        a, b = scene(rng, size)
        for name, rule in rules.items():
            found[name] += int((rule(a, b).max(axis=-1) >= _LIMIT).sum())
    return found


def staged(rates: Sequence[float], shares: Sequence[float], requests: int, looks: int, factor: float) -> Scene:
    """One request a user, in stages.

    Args:
        rates: of the control's events in each stage.
        shares: of the requests that get the candidate in each stage, 0..1.
        requests: in each stage.
        looks: in each stage.
        factor: the candidate's rate over the control's.
    """

    def counts(rng: np.random.Generator, size: int, stage: int, share: float, rate: float) -> Slices:
        shape = (size, len(rates) * looks, _SLICES)
        n = np.zeros(shape)
        now = slice(stage * looks, (stage + 1) * looks)
        n[:, now] = rng.poisson(requests * share / looks / _SLICES, (size, looks, _SLICES))
        y = np.zeros(shape)
        y[:, now] = rng.binomial(n[:, now].astype(np.int64), rate)
        return Slices(np.cumsum(n, axis=1), np.cumsum(y, axis=1))

    def scene(rng: np.random.Generator, size: int) -> tuple[Strata, Strata]:
        stages = list(enumerate(zip(rates, shares, strict=True)))
        a = [counts(rng, size, stage, 1 - share, rate) for stage, (rate, share) in stages]
        b = [counts(rng, size, stage, share, rate * factor) for stage, (rate, share) in stages]
        return a, b

    return scene


def returning(population: Population, rate: float, strength: float, factor: float) -> Scene:
    """Users who come back, each with a rate of their own.

    Args:
        population: who takes part.
        rate: of the control's events.
        strength: how alike users are; see :func:`~bench.simulations.users.user_rates`.
        factor: the candidate's rate over the control's.
    """

    def scene(rng: np.random.Generator, size: int) -> tuple[Strata, Strata]:
        n, y = [], []
        for _ in range(size):
            traffic = draw(rng, population)
            rates = user_rates(rng, np.where(traffic.candidate, rate * factor, rate), strength)
            n.append(traffic.sums())
            y.append(traffic.sums(rng.random(traffic.user.size) < rates[traffic.user]))
        a, b = arms(n, y)
        return [a], [b]

    return scene


def costs(share: float, factor: float, cap: float, slices: int = 10) -> Scene:
    """One request a user, at a Pareto-distributed cost with index 1.5: no variance exists.

    Args:
        share: of the requests that get the candidate.
        factor: the candidate's costs over the control's.
        cap: above which values count as the cap; infinite for none.
        slices: as many as there are groups that histograms are kept for.
    """
    population = Population(20_000, share, slices, 60, lambda _, users: np.ones(users, dtype=np.intp))

    def scene(rng: np.random.Generator, size: int) -> tuple[Strata, Strata]:
        n, y = [], []
        for _ in range(size):
            traffic = draw(rng, population)
            value = (1 + rng.pareto(1.5, population.users)) * np.where(traffic.candidate, factor, 1.0)
            n.append(traffic.sums())
            y.append(traffic.sums(np.minimum(value, cap)[traffic.user]))
        a, b = arms(n, y)
        return [a], [b]

    return scene


def often(runs: int, seed: int) -> list[Outcome]:
    """100 looks at 10,000 requests a variant."""
    check = "2% events, 10,000 requests per variant, 100 looks"
    name, naive = "confidence sequence", "naive: t-test at every look"
    rules = {name: ours(6_000), naive: repeated_t}
    same = count(staged([0.02], [0.5], 20_000, 100, 1.0), rules, runs, (seed, 1))
    more = count(staged([0.02], [0.5], 20_000, 100, 1.5), {name: rules[name]}, runs, (seed, 2))
    return [
        Outcome(check, name, "same", runs, same[name], allowed=ALPHA),
        Outcome(check, naive, "same", runs, same[naive]),
        Outcome(check, name, "2% against 3%", runs, more[name], wanted=0.95),
    ]


def ramp(runs: int, seed: int) -> list[Outcome]:
    """5, 25, then 50% for the candidate, while the rate of both drifts."""
    check = "ramp 5, 25, 50% while the rate rises from 2 to 3.8%"
    rules = {"by stage": ours(6_000), "naive: stages pooled": pooled_stages(6_000)}
    stages = [0.02, 0.0275, 0.038], [0.05, 0.25, 0.5], 12_000, 20
    same = count(staged(*stages, 1.0), rules, runs, (seed, 3))
    ours_name, naive = rules
    more = count(staged(*stages, 1.3), {ours_name: rules[ours_name]}, runs, (seed, 4))
    return [
        Outcome(check, ours_name, "same", runs, same[ours_name], allowed=ALPHA),
        Outcome(check, naive, "same", runs, same[naive]),
        Outcome(check, ours_name, "rate x 1.3", runs, more[ours_name], wanted=0.6),
    ]


def sticky(runs: int, seed: int) -> list[Outcome]:
    """Users who send about twenty requests each."""
    check = "2,000 users with about 20 requests each, 50%, 60 looks"
    population = Population(2_000, 0.5, _SLICES, 60, about_twenty)
    name, naive = "over slices", "naive: requests taken as independent"
    rules = {name: ours(10_000), naive: per_request(10_000)}
    same = count(returning(population, 0.1, 2.0, 1.0), rules, runs, (seed, 5))
    more = count(returning(population, 0.1, 2.0, 1.5), {name: rules[name]}, runs, (seed, 6))
    return [
        Outcome(check, name, "same", runs, same[name], allowed=ALPHA),
        Outcome(check, naive, "same", runs, same[naive]),
        Outcome(check, name, "rate x 1.5", runs, more[name], wanted=0.95),
    ]


def canary(runs: int, seed: int) -> list[Outcome]:
    """A small canary of users of whom a few send most of the requests."""
    outcomes = []
    population = Population(10_000, 0.05, _SLICES, 60, heavy_tailed)
    rules = {"variance in common": ours(300), "naive: each variant's own slices": own_slices(300)}
    ours_name, naive = rules
    for number, (rate, wanted) in enumerate(((0.05, 0.9), (0.005, None))):
        check = f"5% canary, 10,000 users of 1 to 200 requests, {rate:.1%} events, 60 looks"
        same = count(returning(population, rate, 0.5 / rate, 1.0), rules, runs, (seed, 7, number))
        more = count(returning(population, rate, 0.5 / rate, 2.0), rules, runs, (seed, 8, number))
        outcomes += [
            Outcome(check, ours_name, "same", runs, same[ours_name], allowed=ALPHA),
            Outcome(check, naive, "same", runs, same[naive]),
            Outcome(check, ours_name, "rate doubled", runs, more[ours_name], wanted=wanted),
            Outcome(check, naive, "rate doubled", runs, more[naive]),
        ]
    return outcomes


def margins(runs: int, seed: int) -> list[Outcome]:
    """Exactly at a relative margin of 20%, neither harm beyond it nor health within it may be found."""
    outcomes = []
    for number, share in enumerate((0.05, 0.5)):
        population = Population(10_000, share, _SLICES, 60, about_twenty)
        check = f"exactly at a margin of 20%, {share:.0%} of 10,000 users with about 20 requests each"
        n_star = 100_000 * share
        rules = {
            "harmful": ours(n_star, side=Side.GREATER, by=0.2),
            "healthy": ours(n_star, side=Side.LESS, by=0.2),
        }
        same = count(returning(population, 0.1, 5.0, 1.2), rules, runs, (seed, 9, number))
        outcomes += [Outcome(check, name, "same", runs, same[name], allowed=ALPHA) for name in rules]
    return outcomes


def heavy_tails(runs: int, seed: int) -> list[Outcome]:
    """Costs without a variance, capped at the control's 99th percentile and not."""
    outcomes = []
    cap = 100 ** (1 / 1.5)
    for number, share in enumerate((0.5, 0.05)):
        check = f"costs with a Pareto tail of 1.5, 20,000 requests, {share:.0%}, 10 slices, 60 looks"
        rule = {"confidence sequence": ours(20_000 * share)}
        for name, limit in (("capped at p99", cap), ("not capped", math.inf)):
            same = count(costs(share, 1.0, limit), rule, runs, (seed, 10, number))["confidence sequence"]
            more = count(costs(share, 1.2, limit), rule, runs, (seed, 11, number))["confidence sequence"]
            capped = math.isfinite(limit)
            outcomes += [
                Outcome(check, name, "same", runs, same, allowed=ALPHA if capped else None),
                Outcome(check, name, "cost x 1.2", runs, more),
            ]
    return outcomes


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """Every check of this family."""
    checks = (often, ramp, sticky, canary, margins, heavy_tails)
    return [outcome for check in checks for outcome in check(runs, seed)]
