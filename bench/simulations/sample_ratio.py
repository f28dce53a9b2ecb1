"""Sample-ratio alarms that are looked at all the time, on new identities and on requests of users who return.

Called by ``python -m bench.simulations`` and, with fewer runs, by the tests.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2

from abmesh.inference.numbers import Floats
from abmesh.inference.sample_ratio import log_e_sample_ratio, sample_ratio
from bench.simulations.outcome import Outcome

ALPHA = 0.01
_REJECT = -math.log(ALPHA)
_LOOKS, _SLICES, _USERS = 60, 50, 10_000


def outcomes(runs: int, seed: int) -> list[Outcome]:
    """All checks of this module."""
    return [*new_identities(runs, seed), *returning_users(runs, seed + 1)]


def new_identities(runs: int, seed: int) -> list[Outcome]:
    """50,000 identities, each counted once, 200 looks."""
    check, shares = "sample ratio of 50,000 new identities, 200 looks", np.array([0.5, 0.5])
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, float], int] = {}
    for share in (0.5, 0.48):
        in_b = rng.binomial(250, share, (runs, 200)).cumsum(axis=1).astype(np.float64)
        total = 250.0 * np.arange(1, 201)
        counts = np.stack([total - in_b, in_b], axis=-1)
        statistic = ((counts - total[:, None] / 2) ** 2 / (total[:, None] / 2)).sum(axis=-1)
        found["e-value", share] = int((log_e_sample_ratio(counts, shares) >= _REJECT).any(axis=1).sum())
        found["naive", share] = int((statistic >= chi2.isf(ALPHA, 1)).any(axis=1).sum())
    return [
        Outcome(check, "counts of identities", "same", runs, found["e-value", 0.5], allowed=ALPHA),
        Outcome(check, "naive: chi-square at every look", "same", runs, found["naive", 0.5]),
        Outcome(check, "counts of identities", "52/48", runs, found["e-value", 0.48], wanted=0.95),
    ]


def returning_users(runs: int, seed: int) -> list[Outcome]:
    """10,000 users of 1 to 200 requests with a Pareto tail of 1.2 in 50 slices a variant, 60 looks."""
    found: list[Outcome] = []
    for share, truth in ((0.5, 0.5), (0.05, 0.05), (0.05, 0.07)):
        check = f"sample ratio of returning users, {share:.0%} share, 60 looks"
        rng = np.random.default_rng([seed, round(100 * share), round(100 * truth)])
        ours = naive = 0
        for _ in range(runs):
            arms = _requests(rng, truth)
            shares = (1 - share, share)
            ours += any(sample_ratio([((arms[0, look], arms[1, look]), shares)], ALPHA).alarm for look in range(_LOOKS))
            raw = log_e_sample_ratio(arms.sum(axis=-1).T, np.array(shares))
            naive += bool((raw >= _REJECT).any())
        if truth == share:
            found.append(Outcome(check, "requests over their dispersion", "same", runs, ours, allowed=ALPHA))
            found.append(Outcome(check, "naive: raw requests", "same", runs, naive))
        else:
            found.append(Outcome(check, "requests over their dispersion", f"{truth:.0%}", runs, ours, wanted=0.45))
    return found


def _requests(rng: np.random.Generator, share: float) -> Floats:
    """Requests up to each look, by arm and slice: (2, looks, slices)."""
    activity = np.clip(np.ceil(3 * rng.pareto(1.2, _USERS)), 1, 200).astype(np.int64)
    cell = (rng.random(_USERS) < share) * _SLICES + rng.integers(_SLICES, size=_USERS)
    index = np.repeat(cell, activity) * _LOOKS + rng.integers(_LOOKS, size=int(activity.sum()))
    counts = np.bincount(index, minlength=2 * _SLICES * _LOOKS).reshape(2, _SLICES, _LOOKS)
    return counts.cumsum(axis=-1).transpose(0, 2, 1).astype(np.float64)
