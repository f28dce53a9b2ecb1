"""Random evidence of rollouts: several stages, few or many users, rare or frequent events, no data at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from abmesh.experiment.bucketing import group_of
from abmesh.inference.histogram import Bins, merge, quantile
from controller.evidence.strata import Stratum
from controller.evidence.summary import SliceEvidence, VariantEvidence

SLICES = 50
CONTROL, CANDIDATE = "model-a", "model-b"
DURATIONS = np.array([0.0, 3.0, 20.0, 50.0, 80.0, 100.0, 150.0, 300.0, 900.0])


@dataclass(frozen=True)
class World:
    """What is drawn: how many stages and users, what they see, and how the candidate differs."""

    seed: int
    stages: int
    slices: int
    requests: int
    rate: float
    factor: float


WORLDS = st.builds(
    World,
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from([1, 4, 9, 10, 30, SLICES]),
    st.sampled_from([0, 3, 40, 400, 4_000, 40_000]),
    st.sampled_from([0.0, 0.002, 0.05, 0.5, 1.0]),
    st.sampled_from([0.5, 0.9, 1.0, 1.1, 2.0]),
)


def variant(random: np.random.Generator, world: World, requests: int, rate: float, slow: float) -> VariantEvidence:
    """Requests of users who differ, in some of the slices."""
    numbers = random.permutation(SLICES)[: world.slices].tolist()
    n = random.multinomial(requests, random.dirichlet(np.full(world.slices, 3.0)))
    own = np.minimum(rate * random.gamma(3, 1 / 3, world.slices), 1.0)
    errors, refusals, clicks = random.binomial(n, own), random.binomial(n, own), random.poisson(n * own)
    tokens = random.poisson(100.0 * n)
    spent = np.round(n * 2000 * slow * random.gamma(30, 1 / 30, world.slices)).astype(int)
    slices, groups = {}, dict[int, Bins]()
    totals: dict[str, int] = {}
    shares = random.dirichlet(np.full(len(DURATIONS), 0.7))
    for index, number in enumerate(numbers):
        counts = {
            "refusals": refusals[index],
            "events:click": clicks[index],
            "usage": n[index],
            "output_tokens": tokens[index],
            "streams": n[index],
            "streamed_tokens": tokens[index],
            "generation_ms": spent[index],
        }
        amounts = {name: int(count) for name, count in counts.items()}
        slices[number] = SliceEvidence(int(n[index]), int(errors[index]), 0, int(spent[index]), amounts)
        for name, count in amounts.items():
            totals[name] = totals.get(name, 0) + count
        group = group_of(number, SLICES)
        found = random.multinomial(n[index], shares)
        keys = [(float(round(low * slow)), 0.0 if not low else max(1.0, low / 10)) for low in DURATIONS]
        bins = {key: int(count) for key, count in zip(keys, found, strict=True) if count}
        groups[group] = merge([groups.get(group, {}), bins])
    failed = int(errors.sum())
    return VariantEvidence({200: requests - failed, 503: failed}, int(spent.sum()), slices, groups, totals)


def strata(world: World) -> list[Stratum]:
    """Stages whose rates drift, with the candidate at 5%, 30% and 50%."""
    random = np.random.default_rng(world.seed)
    found = []
    for share in (0.05, 0.3, 0.5)[: world.stages]:
        drift = math.exp(random.normal(0, 0.3))
        rate = min(1.0, world.rate * drift)
        control = variant(random, world, round(world.requests * (1 - share)), rate, drift)
        few = min(1.0, rate * world.factor)
        candidate = variant(random, world, round(world.requests * share), few, drift * world.factor)
        bins = merge(control.groups.values())
        values = {f"latency_p{100 * share:.0f}": quantile(bins, share) for share in (0.5, 0.95)}
        edges = {name: (value * random.uniform(0.9, 1.1),) for name, value in values.items() if value is not None}
        points = round(10_000 * share)
        weights = {CONTROL: 10_000 - points, CANDIDATE: points}
        found.append(Stratum(weights, {CONTROL: control, CANDIDATE: candidate}, edges))
    return found
