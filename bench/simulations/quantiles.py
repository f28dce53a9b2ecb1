"""Simulations of latency quantiles: requests that are independent, users who are slow throughout, margins.

Run by :mod:`bench.simulations` and, with fewer runs, by the tests; :mod:`bench.simulations.latency_guardrails` takes
its durations from here. They are lognormal and go through Envoy's bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from abmesh.inference.counts import log_e_ratio
from abmesh.inference.histogram import Bins
from abmesh.inference.mixture import log_sum_exp
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.quantiles import edges_around, log_e_exceedances, spread_edges
from bench.simulations.outcome import Outcome
from bench.simulations.users import Activity, Flags, Population, Traffic, batches, draw, heavy_tailed

ALPHA: Final = 0.05
_LIMIT: Final = -math.log(ALPHA)
_GROUPS: Final = 10
_LOOKS: Final = 60
MEDIAN_MS: Final = 80.0
SIGMA: Final = 0.6
_BEFORE: Final = 2_000
"""The control's requests before the stage, which its edges are taken from."""

Rule = Callable[[Floats, Floats, Floats, Floats], Floats]
"""From counts above edges and requests of both variants, as log_e_exceedances takes them, to evidence (runs, looks)."""


@dataclass(frozen=True, slots=True)
class Durations:
    """How long requests take.

    Attributes:
        between: share of the log variance that is between users, 0..1.
        factor: the candidate's durations over the control's.
    """

    between: float
    factor: float

    def of(self, rng: np.random.Generator, traffic: Traffic) -> Floats:
        """One duration a request, in milliseconds."""
        users = rng.normal(0.0, SIGMA * math.sqrt(self.between), traffic.population.users)
        requests = rng.normal(0.0, SIGMA * math.sqrt(1 - self.between), traffic.user.size)
        factor = np.where(traffic.candidate, self.factor, 1.0)
        return np.asarray(MEDIAN_MS * np.exp(users[traffic.user] + requests) * factor[traffic.user])


@dataclass(frozen=True, slots=True)
class Binned:
    """Durations as Envoy keeps them: bins with two significant digits, values spread evenly inside."""

    lower: Floats
    width: Floats

    @classmethod
    def of(cls, values: Floats) -> Binned:
        """Values above 0, in milliseconds."""
        width = 10.0 ** (np.floor(np.log10(values)) - 1)
        return cls(np.floor(values / width) * width, width)

    def above(self, limit: float) -> Floats:
        """How much of each value's bin lies above a limit, 0..1."""
        return np.asarray(np.clip((self.lower + self.width - limit) / self.width, 0.0, 1.0))

    def bins(self) -> Bins:
        """As a histogram."""
        keys, counts = np.unique(np.stack([self.lower, self.width], axis=1), axis=0, return_counts=True)
        return {(float(lower), float(width)): int(count) for (lower, width), count in zip(keys, counts, strict=True)}


def deflated(side: Side = Side.TWO_SIDED) -> Rule:
    """M3: both counts of each edge divided by its design effect."""
    return lambda above_a, n_a, above_b, n_b: log_e_exceedances(above_a, n_a, above_b, n_b, side=side)


def raw(above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats) -> Floats:
    """Requests taken as independent."""
    total_a, total_b = n_a.sum(axis=-1), n_b.sum(axis=-1)
    share = total_b / np.maximum(total_a + total_b, 1)
    s_a, s_b = (np.swapaxes(above.sum(axis=-1), -1, -2) for above in (above_a, above_b))
    values = log_e_ratio(s_a, s_b, np.broadcast_to(share[..., None, :], s_a.shape))
    return np.asarray(log_sum_exp(values) - math.log(values.shape[-1]))


def count(
    population: Population,
    durations: Durations,
    rules: Mapping[str, Rule],
    runs: int,
    seed: Sequence[int],
    *,
    quantile: float | None = None,
    scale: float = 1.0,
) -> dict[str, int]:
    """In how many of the runs each rule raised an alarm at some look.

    Args:
        population: who takes part; its slices are the groups.
        durations: of the requests.
        rules: by name.
        runs: simulated experiments.
        seed: of the random numbers.
        quantile: whose edges are taken; None for edges over the whole distribution.
        scale: what the candidate's durations are allowed to be multiplied by.
    """
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(rules, 0)
    for size in batches(runs):
        n, above = [], []
        for _ in range(size):
            before = Binned.of(MEDIAN_MS * np.exp(rng.normal(0.0, SIGMA, _BEFORE))).bins()
            edges = spread_edges(before) if quantile is None else edges_around(before, quantile)
            traffic = draw(rng, population)
            values = Binned.of(durations.of(rng, traffic))
            n.append(traffic.sums())
            above.append([_both(traffic, values, edge, edge * scale) for edge in edges])
        # (runs, edge, variant, look, group) becomes (variant, runs, look, stratum, edge, group); there is one stratum.
        counts = np.moveaxis(np.array(above), (2, 1), (0, 3))[:, :, :, None]
        requests = np.moveaxis(np.array(n), 1, 0)[:, :, :, None]
        for name, rule in rules.items():
            log_e = rule(counts[0], requests[0], counts[1], requests[1])
            found[name] += int((log_e.max(axis=-1) >= _LIMIT).sum())
    return found


def _both(traffic: Traffic, values: Binned, edge: float, limit: float) -> Floats:
    """Sums above the edge for the control and above the limit for the candidate, shape (2, looks, groups)."""
    candidate: Flags = traffic.candidate[traffic.user]
    return traffic.sums(np.where(candidate, values.above(limit), values.above(edge)))


def _once(_: np.random.Generator, users: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    return np.ones(users, dtype=np.intp)


def _population(share: float, users: int, activity: Activity) -> Population:
    return Population(users, share, _GROUPS, _LOOKS, activity)


def independent(runs: int, seed: int) -> list[Outcome]:
    """One request a user."""
    check = "latency, 10,000 requests per variant, one a user, 60 looks"
    population, rules = _population(0.5, 20_000, _once), {"M3": deflated()}
    same = count(population, Durations(0.5, 1.0), rules, runs, (seed, 21))["M3"]
    slower = count(population, Durations(0.5, 1.1), rules, runs, (seed, 22))["M3"]
    return [
        Outcome(check, "M3", "same", runs, same, allowed=ALPHA),
        Outcome(check, "M3", "10% slower", runs, slower, wanted=0.95),
    ]


def sticky(runs: int, seed: int) -> list[Outcome]:
    """Users who come back, some of them slow throughout."""
    outcomes = []
    rules: dict[str, Rule] = {"M3": deflated(), "M3 without design effect": raw}
    for number, share in enumerate((0.5, 0.05)):
        check = f"latency, 10,000 users of 1 to 200 requests, {share:.0%}, 60 looks"
        population = _population(share, 10_000, heavy_tailed)
        same = count(population, Durations(0.5, 1.0), rules, runs, (seed, 23, number))
        slower = count(population, Durations(0.5, 1.3), {"M3": deflated()}, runs, (seed, 24, number))
        outcomes += [
            Outcome(check, "M3", "same", runs, same["M3"], allowed=ALPHA),
            Outcome(check, "M3 without design effect", "same", runs, same["M3 without design effect"]),
            Outcome(check, "M3", "30% slower", runs, slower["M3"], wanted=0.85),
        ]
    return outcomes


def margins(runs: int, seed: int) -> list[Outcome]:
    """Exactly at a relative margin of 10% of a quantile, neither harm beyond it nor health within it may be found."""
    outcomes = []
    rules: dict[str, Rule] = {"M3, harm": deflated(Side.GREATER), "M3, health": deflated(Side.LESS)}
    population = _population(0.05, 10_000, heavy_tailed)
    for number, quantile in enumerate((0.5, 0.95)):
        check = f"p{quantile * 100:.0f} latency exactly at a margin of 10%, 10,000 users of 1 to 200 requests, 5%"
        same = count(population, Durations(0.5, 1.1), rules, runs, (seed, 25, number), quantile=quantile, scale=1.1)
        outcomes += [Outcome(check, name, "same", runs, same[name], allowed=ALPHA) for name in rules]
    return outcomes


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """Every check of this family."""
    return [outcome for check in (independent, sticky, margins) for outcome in check(runs, seed)]
