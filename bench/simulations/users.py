"""Simulated users who come back: who sends which request when, and the sums per slice that the controller would have.

Used by :mod:`bench.simulations.means` and :mod:`bench.simulations.durations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats, Slices

Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]
Activity = Callable[[np.random.Generator, int], Indices]

BATCH: Final = 50
"""Simulated experiments that are analysed at once; more would need more memory than they would save time."""


@dataclass(frozen=True, slots=True)
class Population:
    """Who takes part.

    Attributes:
        users: of both variants together.
        share: of the users who get the candidate, 0..1.
        slices: that a hash spreads the users over.
        looks: times that the controller looks. Users come at a random one of them and stay until the end.
        activity: how many requests each user sends.
    """

    users: int
    share: float
    slices: int
    looks: int
    activity: Activity


@dataclass(frozen=True, slots=True)
class Traffic:
    """One simulated experiment's requests and the users who send them.

    Attributes:
        candidate: whether each user gets the candidate, shape (users,).
        user: who sends each request, shape (requests,).
        cell: variant, look and slice of each request as one index, same shape.
        population: whom it was drawn from.
    """

    candidate: Flags
    user: Indices
    cell: Indices
    population: Population

    def sums(self, values: Floats | Flags | None = None) -> Floats:
        """Sums over the requests so far, or their number: shape (2, looks, slices), the control first."""
        looks, slices = self.population.looks, self.population.slices
        weights = None if values is None else values.astype(np.float64)
        sums = np.bincount(self.cell, weights, minlength=2 * looks * slices).reshape(2, looks, slices)
        return np.asarray(np.cumsum(sums, axis=1, dtype=np.float64))


def heavy_tailed(rng: np.random.Generator, users: int) -> Indices:
    """1 to 200 requests a user, with a Pareto tail of index 1.2: a few users send most of the requests."""
    return np.minimum(np.floor(1 + 2 * rng.pareto(1.2, users)), 200).astype(np.intp)


def about_twenty(rng: np.random.Generator, users: int) -> Indices:
    """A Poisson number of requests with mean 20."""
    return rng.poisson(20, users).astype(np.intp)


def draw(rng: np.random.Generator, population: Population) -> Traffic:
    """One simulated experiment."""
    users, slices, looks = population.users, population.slices, population.looks
    candidate = rng.random(users) < population.share
    slice_ = rng.integers(slices, size=users)
    user = np.repeat(np.arange(users), population.activity(rng, users))
    arrival = rng.integers(looks, size=users)[user]
    look = arrival + np.floor(rng.random(user.size) * (looks - arrival)).astype(np.intp)
    cell = (candidate[user] * looks + look) * slices + slice_[user]
    return Traffic(candidate, user, cell, population)


def user_rates(rng: np.random.Generator, mean: Floats, strength: float) -> Floats:
    """Each user's own rate, Beta-distributed around a mean in 0..1; the larger the strength, the more alike they are.

    A strength of 0.5 / mean is a first parameter of 0.5: most users hardly ever have an event, a few often.
    """
    return np.asarray(rng.beta(mean * strength, (1 - mean) * strength))


def batches(runs: int) -> Iterator[int]:
    """Sizes of the batches that a number of runs is split into."""
    for start in range(0, runs, BATCH):
        yield min(BATCH, runs - start)


def arms(n: list[Floats], y: list[Floats]) -> tuple[Slices, Slices]:
    """The control's and the candidate's slices of a batch, shape (runs, looks, slices) each."""
    counts, sums = np.stack(n), np.stack(y)
    return Slices(counts[:, 0], sums[:, 0]), Slices(counts[:, 1], sums[:, 1])
