"""Guardrails per user as they run, where one user sends much of the traffic: no false alarm, and nothing hidden.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests. The comparison is the controller's own; a
single one serves all looks of many runs, which take the place of its moments. The truth is the mean over users of each
user's own rate, to which one user adds next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from abmesh.inference.busiest import usual
from abmesh.inference.numbers import Floats, Side, Slices
from abmesh.inference.users import typical
from bench.simulations import error_guardrails
from bench.simulations.outcome import Outcome
from bench.simulations.users import Population, arms, batches, draw, heavy_tailed, user_rates
from controller.decision.comparison import Comparison, StratifiedSums
from controller.decision.means import tuned_rho2
from controller.decision.typical_user import apart
from controller.decision.users import UserComparison, UserVariances

ALPHA: Final = 0.05
_LIMIT: Final = -math.log(ALPHA)
_SLICES: Final = 50
_LOOKS: Final = 60
_USERS: Final = 10_000
_MARGIN: Final = 0.2
_TUNED_FOR: Final = 1_000

USER: Final = "per user"
REQUEST: Final = "over all requests"

Question = Callable[[Comparison], Floats]
"""From a comparison at all looks to the evidence at each."""

Rule = Callable[[Slices, Slices], Comparison]
"""From both variants' slices, shape (runs, looks, slices), to their comparison."""


@dataclass(frozen=True, slots=True)
class Busy:
    """One user who sends much of the traffic, or none.

    Attributes:
        name: in words.
        traffic: share of all requests, 0..1.
        candidate: whether the user gets the candidate.
        rate: how often its requests fail, 0..1; None if it is like everybody else.
    """

    name: str = ""
    traffic: float = 0.0
    candidate: bool = False
    rate: float | None = None


NOBODY: Final = Busy("nobody sends much")
ALIKE: Final = Busy("one of 30% of the traffic on the control, like others", 0.3)
ALIKE_ON_CANDIDATE: Final = Busy("one of 30% on the candidate, like others", 0.3, candidate=True)
HIDING: Final = Busy("one of 30% on the control that never fails", 0.3, rate=0.0)
PROBE: Final = Busy("one of 10% on the candidate that always fails", 0.1, candidate=True, rate=1.0)
PROBE_ON_CONTROL: Final = Busy("one of 10% on the control that always fails", 0.1, rate=1.0)

CHECKED: Final = (
    (0.05, 0.05, NOBODY),
    (0.05, 0.05, ALIKE_ON_CANDIDATE),
    (0.05, 0.05, HIDING),
    (0.05, 0.5, ALIKE),
    (0.05, 0.5, PROBE),
    (0.005, 0.5, NOBODY),
    (0.005, 0.05, PROBE_ON_CONTROL),
    (0.002, 0.05, NOBODY),
)
"""An ordinary user's error rate, the candidate's share of the users, and who else there is."""


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    found: list[Outcome] = []
    for number, (rate, share, busy) in enumerate(CHECKED):
        found += checked(runs, (seed, number), rate, share, busy)
    found.append(disagreed(runs, (seed, len(CHECKED)), NOBODY))
    found.append(disagreed(runs, (seed, len(CHECKED) + 1), HIDING))
    return found


def checked(runs: int, seed: Sequence[int], rate: float, share: float, busy: Busy) -> list[Outcome]:
    """10,000 users of 1 to 200 requests and perhaps one who sends far more, 60 looks.

    Args:
        runs: simulated experiments.
        seed: of the random numbers.
        rate: of an ordinary user's errors on the control, on average.
        share: of the users who get the candidate.
        busy: who sends much of the traffic.
    """
    check = f"errors per user, {share:.0%} of 10,000 users, {rate:.1%} errors, {busy.name}"
    worse: dict[str, Question] = {"worse than the control": lambda f: f.increase(Side.GREATER, 0.0, relative=True)}
    below: dict[str, Question] = {"healthy, 30% below max": lambda found: found.level(Side.LESS, rate / 0.7)}
    exactly: dict[str, Question] = {
        "harmful, exactly at max": lambda found: found.level(Side.GREATER, rate),
        "healthy, exactly at max": lambda found: found.level(Side.LESS, rate),
    }
    at_margin: dict[str, Question] = {
        "harmful, exactly at a relative margin": lambda f: f.increase(Side.GREATER, _MARGIN, relative=True),
        "healthy, exactly at a relative margin": lambda f: f.increase(Side.LESS, _MARGIN, relative=True),
    }
    same = count(rate, share, 1.0, busy, worse | exactly | below, runs, seed)
    margin = count(rate, share, 1 + _MARGIN, busy, at_margin, runs, seed)
    doubled = count(rate, share, 2.0, busy, worse, runs, seed)
    truth = f"rate x {1 + _MARGIN:g}"
    found = [
        Outcome(check, f"{USER}, {name}", "same", runs, same[USER, name], allowed=ALPHA) for name in (*worse, *exactly)
    ]
    found += [Outcome(check, f"{USER}, {name}", truth, runs, margin[USER, name], allowed=ALPHA) for name in at_margin]
    for rule in (USER, REQUEST):
        (more,), (kept,) = worse, below
        wanted = _wanted(rate, share) if rule == USER else None
        if rule == REQUEST:
            found.append(Outcome(check, f"{rule}, {more}", "same", runs, same[rule, more]))
        found.append(Outcome(check, f"{rule}, {more}", "errors doubled", runs, doubled[rule, more], wanted=wanted))
        found.append(Outcome(check, f"{rule}, {kept}", "same", runs, same[rule, kept]))
    return found


def disagreed(runs: int, seed: Sequence[int], busy: Busy) -> Outcome:
    """How often all requests and a typical user of the control are said to be apart, at one of six looks."""
    rng = np.random.default_rng(seed)
    rate, population = 0.05, Population(_USERS, 0.5, _SLICES, _LOOKS, heavy_tailed)
    hits = 0
    for size in batches(runs):
        control, candidate = visited(rng, size, population, rate, 1.0, busy)
        hits += sum(_apart(control, candidate, run) for run in range(size))
    check = f"disagreement of a variant's two values, 50% of 10,000 users, {rate:.1%} errors, {busy.name}"
    rule = "a typical user and all requests are apart"
    if busy is NOBODY:
        return Outcome(check, rule, "same", runs, hits, allowed=ALPHA)
    return Outcome(check, rule, "they are", runs, hits, wanted=0.95)


def _apart(seen: Slices, other: Slices, run: int) -> bool:
    """The variant that is looked at takes the candidate's place."""
    for look in range(9, _LOOKS, 10):
        one = slice(run, run + 1), slice(look, look + 1)
        found = compared(Slices(other.n[one], other.y[one]), Slices(seen.n[one], seen.y[one]))
        if apart(found, float(seen.y[one].sum() / seen.n[one].sum()), ALPHA):
            return True
    return False


def _wanted(rate: float, share: float) -> float:
    """How often doubled errors must be found, whoever sends much of the traffic."""
    return 0.95 if share == 0.5 else 0.9 if rate >= 0.05 else 0.5 if rate >= 0.005 else 0.3


def count(
    rate: float,
    share: float,
    factor: float,
    busy: Busy,
    questions: Mapping[str, Question],
    runs: int,
    seed: Sequence[int],
) -> dict[tuple[str, str], int]:
    """In how many of the runs each rule answered each question with yes at some look, by rule and question."""
    rng = np.random.default_rng([*seed, round(100 * factor)])
    population = Population(_USERS, share, _SLICES, _LOOKS, heavy_tailed)
    rules: dict[str, Rule] = {USER: compared, REQUEST: error_guardrails.compared}
    found = {(rule, question): 0 for rule in rules for question in questions}
    for size in batches(runs):
        a, b = visited(rng, size, population, rate, factor, busy)
        for rule, compare in rules.items():
            comparison = compare(a, b)
            for name, question in questions.items():
                log_e = question(comparison).reshape(size, population.looks)
                found[rule, name] += int((log_e.max(axis=-1) >= _LIMIT).sum())
    return found


def visited(
    rng: np.random.Generator, size: int, population: Population, rate: float, factor: float, busy: Busy
) -> tuple[Slices, Slices]:
    """Both variants' slices at every look, shape (size, looks, slices).

    Args:
        rng: of the random numbers.
        size: simulated experiments.
        population: of ordinary users.
        rate: of the control's events.
        factor: the candidate's rate over the control's.
        busy: who joins them; there from the first look on.
    """
    n, y = [], []
    for _ in range(size):
        traffic = draw(rng, population)
        rates = user_rates(rng, np.where(traffic.candidate, rate * factor, rate), 0.5 / rate)
        requests, events = traffic.sums(), traffic.sums(rng.random(traffic.user.size) < rates[traffic.user])
        if busy.traffic:
            own = rate * factor if busy.candidate else rate
            fails = float(user_rates(rng, np.asarray(own), 0.5 / rate)) if busy.rate is None else busy.rate
            total = traffic.user.size * busy.traffic / (1 - busy.traffic)
            sent = rng.poisson(total / population.looks, population.looks)
            place = int(busy.candidate), slice(None), rng.integers(population.slices)
            requests[place] += np.cumsum(sent)
            events[place] += np.cumsum(rng.binomial(sent, fails))
        n.append(requests)
        y.append(events)
    return arms(n, y)


def compared(a: Slices, b: Slices) -> UserComparison:
    """The controller's comparison at every look of every run; slices have shape (runs, looks, slices)."""
    rows = [Slices(arm.n.reshape(-1, 1, arm.n.shape[-1]), arm.y.reshape(-1, 1, arm.n.shape[-1])) for arm in (a, b)]
    a, b = (typical(arm, usual(arm.n)) for arm in rows)
    sums = StratifiedSums(y_a=a.total_y, n_a=a.total_n, y_b=b.total_y, n_b=b.total_n)
    counted = [Slices(np.where(usual(arm.n), arm.n, 0.0), arm.y) for arm in rows]
    counts = StratifiedSums(sums.y_a, counted[0].total_n, sums.y_b, counted[1].total_n)
    variances = UserVariances(a, b, share=True)
    nu = variances.freedom[..., -1]
    effects, own = variances.effects, variances.candidate_effects
    return UserComparison(sums, counts, variances, tuned_rho2(_TUNED_FOR, ALPHA), nu, effects=effects, own_effects=own)
