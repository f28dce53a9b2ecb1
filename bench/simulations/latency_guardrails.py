"""Guardrails on a latency quantile as they run: a limit in milliseconds, or an edge from the control's first requests.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests. A test asks the controller's own
comparison about the same requests, and gets the same evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from abmesh.inference.counts import log_e_ratio, log_e_share
from abmesh.inference.edges import edge_deflator, edge_design_effect, level_deflator
from abmesh.inference.histogram import quantile
from abmesh.inference.numbers import Floats, Side
from bench.simulations.durations import MEDIAN_MS, SIGMA, Binned, Durations
from bench.simulations.outcome import Outcome
from bench.simulations.users import Activity, Indices, Population, Traffic, draw, heavy_tailed
from controller.decision.comparison import few_slices_effect
from controller.decision.quantiles import MIN_GROUPS, TAU

ALPHA: Final = 0.05
EDGE_SAMPLE: Final = 200
"""The control's requests that its edge is taken from; a test compares it with the controller's."""

_LIMIT: Final = -math.log(ALPHA)
_GROUPS: Final = 10
_LOOKS: Final = 60
_MARGIN: Final = 0.1
_BETWEEN: Final = 0.5
WANTED: Final = {0.5: 0.95, 0.05: 0.5}
"""How often a difference must be found, by the share of the users who get the candidate."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One simulated experiment.

    Attributes:
        traffic: its requests.
        values: their durations.
        sizes: how many requests there were up to each look, shape (2, looks, groups), the control first.
        counted: what :meth:`above` has counted already.
    """

    traffic: Traffic
    values: Binned
    sizes: Floats
    counted: dict[tuple[float, float], Floats] = field(default_factory=dict)

    def above(self, edge: float, limit: float) -> Floats:
        """The control's requests above the edge and the candidate's above the limit, shape (2, looks, groups)."""
        if (edge, limit) not in self.counted:
            candidate = self.traffic.candidate[self.traffic.user]
            part = np.where(candidate, self.values.above(limit), self.values.above(edge))
            self.counted[edge, limit] = self.traffic.sums(part)
        return self.counted[edge, limit]


Question = Callable[[Seen], Floats]
"""From an experiment to the evidence at each of its looks."""


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    sticky_ones = [item for number, share in enumerate((0.5, 0.05)) for item in sticky(runs, (seed, number), share)]
    return [*independent(runs, (seed, 2)), *sticky_ones]


def independent(runs: int, seed: Sequence[int]) -> list[Outcome]:
    """20,000 users of one request each, half of them on the candidate, 60 looks."""
    check = "latency guardrail, 10,000 requests per variant, one a user, 60 looks"
    questions = {f"p{100 * q:.0f} worse than the control": _increase(q, 0.0, Side.GREATER) for q in (0.5, 0.95)}
    same = count(0.5, 1.0, questions, runs, seed, 20_000, _once)
    slower = count(0.5, 1.1, questions, runs, seed, 20_000, _once)
    found = [Outcome(check, name, "same", runs, same[name], allowed=ALPHA) for name in questions]
    median, tail = questions
    return [
        *found,
        Outcome(check, median, "10% slower", runs, slower[median], wanted=0.95),
        Outcome(check, tail, "10% slower", runs, slower[tail]),
    ]


def sticky(runs: int, seed: Sequence[int], share: float) -> list[Outcome]:
    """10,000 users of whom a few send most of the requests and some are slow throughout, 60 looks.

    Args:
        runs: simulated experiments.
        seed: of the random numbers.
        share: of the users who get the candidate.
    """
    levels = {
        f"p{100 * q:.0f} {name}": _level(q, 1.0, side, deflator)
        for q in (0.5, 0.95, 0.99)
        for name, side, deflator in (
            ("harmful, exactly at max", Side.GREATER, level_deflator),
            ("healthy, exactly at max", Side.LESS, level_deflator),
            ("healthy, naive: design effect taken for known", Side.LESS, edge_design_effect),
        )
    }
    worse = {f"p{100 * q:.0f} worse than the control": _increase(q, 0.0, Side.GREATER) for q in (0.5, 0.95)}
    worse["p95 worse than the control, naive: requests taken as independent"] = _naive_increase
    margins = {
        f"p{100 * q:.0f} {name}, exactly at a relative margin": _increase(q, _MARGIN, side)
        for q in (0.5, 0.95)
        for name, side in (("harmful", Side.GREATER), ("healthy", Side.LESS))
    }
    within = {"p95 healthy, 20% below max": _level(0.95, 1.25, Side.LESS, level_deflator)}
    beyond = {"p95 harmful, 30% above max": _level(0.95, 1.0, Side.GREATER, level_deflator)}
    check = f"latency guardrail, {share:.0%} of 10,000 users of 1 to 200 requests, 60 looks"
    outcomes = []
    for truth, factor, null, others in (
        ("same", 1.0, levels | worse, within),
        ("10% slower", 1.1, margins, {}),
        ("30% slower", 1.3, {}, beyond | {"p95 worse than the control": worse["p95 worse than the control"]}),
    ):
        found = count(share, factor, null | others, runs, seed)
        outcomes += [
            Outcome(check, name, truth, runs, found[name], None if "naive" in name else ALPHA) for name in null
        ]
        outcomes += [Outcome(check, name, truth, runs, found[name], wanted=WANTED[share]) for name in others]
    return outcomes


def count(
    share: float,
    factor: float,
    questions: Mapping[str, Question],
    runs: int,
    seed: Sequence[int],
    users: int = 10_000,
    activity: Activity = heavy_tailed,
) -> dict[str, int]:
    """In how many of the runs each question was answered with yes at some look."""
    rng = np.random.default_rng([*seed, round(100 * factor)])
    found = dict.fromkeys(questions, 0)
    for _ in range(runs):
        seen = simulated(rng, share, factor, users, activity)
        for name, question in questions.items():
            found[name] += bool(question(seen).max() >= _LIMIT)
    return found


def simulated(
    rng: np.random.Generator, share: float, factor: float, users: int = 10_000, activity: Activity = heavy_tailed
) -> Seen:
    """One experiment whose candidate gets a share of the users and takes so many times as long."""
    traffic = draw(rng, Population(users, share, _GROUPS, _LOOKS, activity))
    return Seen(traffic, Binned.of(Durations(_BETWEEN, factor).of(rng, traffic)), traffic.sums())


def _level(share: float, times: float, side: Side, deflator: Callable[..., Floats]) -> Question:
    limit = binned_quantile(share, times)
    return lambda seen: level(seen, share, limit, side, deflator)


def _increase(share: float, by: float, side: Side) -> Question:
    return lambda seen: increase(seen, share, by, side)


def binned_quantile(share: float, times: float = 1.0) -> float:
    """So many times the true quantile, as bins have it whose values are spread evenly."""
    value = np.array([MEDIAN_MS * math.exp(SIGMA * float(ndtri(share)))])
    kept = Binned.of(value)
    low, width = float(kept.lower[0]), float(kept.width[0])
    below, upto = (float(ndtr(math.log(bound / MEDIAN_MS) / SIGMA)) for bound in (low, low + width))
    return times * (low + width * (share - below) / (upto - below))


def level(seen: Seen, share: float, limit: float, side: Side, deflator: Callable[..., Floats]) -> Floats:
    """Evidence at each look that the candidate's quantile is beyond a limit, as a guardrail's ``max`` has it."""
    n_a, n_b = seen.sizes
    above_a, above_b = seen.above(limit, limit)
    phi = _crowded(deflator(above_a, n_a, above_b, n_b), n_a, n_b)
    return log_e_share(above_b.sum(axis=-1) / phi, n_b.sum(axis=-1) / phi, 1 - share, side=side)


def _naive_increase(seen: Seen) -> Floats:
    return increase(seen, 0.95, 0.0, Side.GREATER, _rare)


def _rare(above_a: Floats, n_a: Floats, above_b: Floats, n_b: Floats) -> Floats:
    """What counts of requests that are independent are divided by: a share R varies by 1 - R less than rare events."""
    total = n_a.sum(axis=-1) + n_b.sum(axis=-1)
    return np.asarray(1 - (above_a.sum(axis=-1) + above_b.sum(axis=-1)) / np.maximum(total, 1))


def increase(
    seen: Seen, share: float, by: float, side: Side, deflator: Callable[..., Floats] = edge_deflator
) -> Floats:
    """Evidence at each look that it is beyond the control's by more, or less, than a relative ``max_increase``."""
    n_a, n_b = seen.sizes
    edge, first = edge_of(seen, share)
    above_a, above_b = seen.above(edge, edge * (1 + by))
    phi = deflator(above_a, n_a, above_b, n_b)
    if deflator is edge_deflator:
        phi = _crowded(phi, n_a, n_b)
    s_a, s_b, total_a, total_b = (x.sum(axis=-1)[:, None] for x in (above_a, above_b, n_a, n_b))
    split = total_b / np.maximum(total_a + total_b, 1e-300)
    log_e = log_e_ratio(s_a / phi[:, None], s_b / phi[:, None], split, side=side, tau=TAU)
    return np.asarray(np.where(np.arange(log_e.size) >= first, log_e, 0.0))


def edge_of(seen: Seen, share: float) -> tuple[float, int]:
    """The control's quantile at the first look that has enough of its requests, and the number of that look."""
    traffic = seen.traffic
    enough = seen.sizes[0].sum(axis=-1) >= EDGE_SAMPLE
    first = int(np.argmax(enough)) if enough.any() else len(enough) - 1
    look = traffic.cell // traffic.population.slices % traffic.population.looks
    chosen = ~traffic.candidate[traffic.user] & (look <= first)
    value = quantile(Binned(seen.values.lower[chosen], seen.values.width[chosen]).bins(), share)
    assert value is not None
    return value, first


def _crowded(phi: Floats, n_a: Floats, n_b: Floats) -> Floats:
    return np.maximum(phi, np.maximum(few_slices_effect(n_a, MIN_GROUPS), few_slices_effect(n_b, MIN_GROUPS)))


def _once(_: np.random.Generator, users: int) -> Indices:
    return np.ones(users, dtype=np.intp)
