"""How far estimates of what a typical user meets are from the truth: the mean over users of each one's own rate.

``python -m bench.simulations.typical_users`` prints the table of decision record 37. The worlds have 50,000 users whose
activity is Pareto-distributed with index 1.2, 1 to 200 times the least, and whose proneness to errors has a squared
coefficient of variation of 2; in most, one of them or several send far more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from abmesh.inference.busiest import usual
from abmesh.inference.numbers import Floats, Slices
from abmesh.inference.users import typical

_USERS: Final = 50_000
_PRONENESS: Final = 0.5
"""Shape of the gamma distribution of proneness, whose squared coefficient of variation is its inverse."""

Estimator = Callable[[Slices], float]
"""From one variant's slices with requests to a rate."""


@dataclass(frozen=True, slots=True)
class World:
    """Who sends requests, and how often they fail.

    Attributes:
        rate: of the errors of an ordinary user, on average.
        busy: share of all requests and error rate of each user who sends far more; a rate of None is an ordinary one.
        steepness: power of a user's activity that its rate is proportional to.
    """

    rate: float
    busy: Sequence[tuple[float, float | None]] = ()
    steepness: float = 0.0


WORLDS: Final[Mapping[str, World]] = {
    "nobody sends much": World(0.005),
    "one of 30% like others": World(0.005, [(0.3, None)]),
    "one of 30% never fails": World(0.05, [(0.3, 0.0)]),
    "one of 10% always fails": World(0.005, [(0.1, 1.0)]),
    "one of 3% always fails": World(0.005, [(0.03, 1.0)]),
    "five of 4% always fail": World(0.005, [(0.04, 1.0)] * 5),
    "busier users fail less": World(0.05, steepness=-0.5),
}


def _mean(arm: Slices) -> float:
    return float((arm.y / arm.n).mean())


def _weighed(arm: Slices, weight: Floats) -> float:
    return float((weight * arm.y / arm.n).sum() / weight.sum())


def _chosen(arm: Slices) -> float:
    found = typical(arm, usual(arm.n))
    return float(found.total_y / found.total_n)


def _kept(arm: Slices) -> Slices:
    kept = usual(arm.n)
    return Slices(arm.n[kept], arm.y[kept])


def _trimmed(arm: Slices) -> float:
    rates = np.sort(arm.y / arm.n)
    cut = max(1, rates.size // 10)
    return float(rates[cut:-cut].mean())


ESTIMATORS: Final[Mapping[str, Estimator]] = {
    "all requests": lambda arm: float(arm.total_y / arm.total_n),
    "slices alike": _mean,
    "at most the median": lambda arm: _weighed(arm, np.minimum(arm.n, np.median(arm.n))),
    "10% trimmed": _trimmed,
    "busy ones left out": lambda arm: _mean(_kept(arm)),
    "both (chosen)": _chosen,
}


@dataclass(frozen=True, slots=True)
class Error:
    """Of an estimator in a world, both as shares of requests.

    Attributes:
        bias: mean of estimate minus truth.
        rms: root of the mean square of it.
    """

    bias: float
    rms: float


def errors(world: World, share: float, requests: int, slices: int, runs: int, seed: int) -> dict[str, Error]:
    """Every estimator's error on one variant.

    Args:
        world: who there is.
        share: of the ordinary users who get the variant, 0..1; those who send far more get it, too.
        requests: of all variants.
        slices: of the variant.
        runs: simulated.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for _ in range(runs):
        arm, truth = _arm(rng, world, share, requests, slices)
        for name, estimate in ESTIMATORS.items():
            found[name].append(estimate(arm) - truth)
    return {
        name: Error(float(np.mean(values)), float(np.sqrt(np.mean(np.square(values)))))
        for name, values in found.items()
    }


def _arm(rng: np.random.Generator, world: World, share: float, requests: int, slices: int) -> tuple[Slices, float]:
    users = round(_USERS * share)
    activity = np.minimum(1 + 2 * rng.pareto(1.2, users), 200.0)
    rates = world.rate * rng.gamma(_PRONENESS, 1 / _PRONENESS, users) * activity**world.steepness
    ordinary = 1 - sum(traffic for traffic, _ in world.busy)
    expected = activity / activity.sum() * requests * share * ordinary
    busy = [world.rate * rng.gamma(_PRONENESS, 1 / _PRONENESS) if rate is None else rate for _, rate in world.busy]
    rates = np.minimum(np.append(rates, busy), 1.0)
    n = rng.poisson(np.append(expected, [requests * traffic for traffic, _ in world.busy]))
    y = rng.binomial(n, rates)
    place = rng.integers(slices, size=n.size)
    sums = np.zeros((2, slices))
    for row, values in enumerate((n, y)):
        sums[row] = np.bincount(place, values, slices)
    with_requests = sums[:, sums[0] > 0]
    return Slices(with_requests[0], with_requests[1]), float(rates.mean())


def main() -> None:
    """Print bias and root mean square error in percentage points."""
    print("| share, slices | world | " + " | ".join(ESTIMATORS) + " |")
    print("| --- | --- |" + " ---: |" * len(ESTIMATORS))
    for share, slices in ((0.05, 50), (0.5, 50), (0.05, 100)):
        for name, world in WORLDS.items():
            found = errors(world, share, 72_000, slices, 400, 2026)
            cells = " | ".join(f"{100 * error.bias:+.2f} ({100 * error.rms:.2f})" for error in found.values())
            print(f"| {share:.0%}, {slices} | {name} | {cells} |")


if __name__ == "__main__":
    main()
