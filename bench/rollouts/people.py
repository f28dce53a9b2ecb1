"""Users who come, send 1 to 50 requests among those of others, and go. Pure but for the seed.

The trap for a test that takes requests as independent: what becomes of a request depends on who sent it. Every user has
a proneness to errors and a slowness of their own, which follow from the name alone, so that the upstream knows them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import xxhash

MOST_REQUESTS: Final = 50
_CLUSTERING: Final = 10.0
"""First plus second parameter of the beta distribution of users' own error rates: the correlation of two requests of
one user is 1/11, and with 25 requests beside each request's the variance is about three times that of independence."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is special about one user.

    Attributes:
        error_rate: share of this user's requests that fail, on the control.
        slowness: standard normal; how much slower than the median this user's answers are.
    """

    error_rate: float
    slowness: float


@lru_cache(maxsize=100_000)
def traits(user: str, error_rate: float) -> Traits:
    """A user's traits.

    Args:
        user: name; the same one always has the same traits.
        error_rate: mean over all users, 0..1; none and all are no distribution and mean what they say.
    """
    chance = random.Random(user)
    slowness = chance.gauss(0, 1)
    if not 0 < error_rate < 1:
        return Traits(error_rate, slowness)
    return Traits(chance.betavariate(error_rate * _CLUSTERING, (1 - error_rate) * _CLUSTERING), slowness)


def fails(user: str, number: int, error_rate: float, factor: float, own: float | None = None) -> bool:
    """Whether a user's request fails; the same request always does, in whatever order requests arrive.

    Args:
        user: name.
        number: of the request among those of the user.
        error_rate: mean of the users' own error rates.
        factor: what they are multiplied by.
        own: this user's error rate whatever the others meet; None: like anybody else's.
    """
    uniform = xxhash.xxh64_intdigest(f"{user}/{number}".encode()) / 2**64
    return uniform < (traits(user, error_rate).error_rate * factor if own is None else own)


def visits(name: str, seed: int, present: int = 200) -> Iterator[str]:
    """Names of users in the order in which they send requests, without an end.

    Args:
        name: distinguishes these users from those of others.
        seed: the same one gives the same users in the same order.
        present: how many users take turns; who has sent everything is replaced by a new user.
    """
    chance = random.Random(f"{name}/{seed}")
    number = 0

    def arrive() -> tuple[str, int]:
        nonlocal number
        number += 1
        # Log-uniform: half of the users send seven requests or fewer, a sixth of them most of all requests.
        return f"{name}-{seed}-{number}", int((MOST_REQUESTS + 1) ** chance.random())

    places = [arrive() for _ in range(present)]
    while True:
        place = chance.randrange(present)
        user, left = places[place]
        yield user
        places[place] = (user, left - 1) if left > 1 else arrive()


def with_heavy(users: Iterator[str], heavy: Mapping[str, float], seed: int) -> Iterator[str]:
    """Users in the order in which they send requests, with some who send a share of all requests each.

    Args:
        users: the others.
        heavy: the share of each, by name; together less than 1.
        seed: the same one gives the same order.
    """
    chance = random.Random(f"heavy/{seed}")
    for user in users:
        while (mark := chance.random()) < sum(heavy.values()):
            for name, share in heavy.items():
                mark -= share
                if mark < 0:
                    yield name
                    break
        yield user
