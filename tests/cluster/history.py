"""What was in force of an Experiment, from when until when: by its status, and by every server's own word."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from abmesh.experiment.model import Experiment
from abmesh.experiment.store import format_generation
from abmesh.kube.generation import experiment_digest
from abmesh.kube.in_force import experiment_in_force
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.watching import follow
from tests.cluster.asking import Json
from tests.cluster.istio_world import variant_of
from tests.cluster.load import Sent
from tests.cluster.shipped_world import Shipped
from tests.cluster.waiting import wait_for

POLL_SECONDS: Final = 0.02
LATE_SECONDS: Final = 0.25
"""How much later than a server this process may hear of a change."""


@dataclass(slots=True)
class Moment:
    """A change of what is in force.

    Attributes:
        at: when its status, or its spec, was seen, in seconds on the monotonic clock.
        experiment: as it is in force from then on.
        said: what servers say on ``/generation`` once they serve it.
        phase: of the rollout.
        servers: when each server was first seen to serve it.
    """

    at: float
    experiment: Experiment
    said: str
    phase: str
    servers: dict[str, float] = field(default_factory=dict)

    @property
    def everywhere(self) -> float:
        """When the last server was seen to serve it."""
        return max(self.servers.values())


class History:
    """Follows an Experiment, and asks all servers what they serve.

    Attributes:
        moments: the changes so far; those that only write down what was in force are none.
        things: every version of the object that was seen, whatever changed.
    """

    def __init__(self, world: Shipped, name: str) -> None:
        self._world = world
        self._name = name
        self._servers: list[str] = []
        self.moments: list[Moment] = []
        self.things: list[Json] = []

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Follow while the block runs, and go on until all servers serve the last change."""
        servers = self._servers = await asyncio.to_thread(self._world.servers)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            tasks = [asyncio.create_task(self._follow())]
            tasks += [asyncio.create_task(self._ask(session, server)) for server in servers]
            try:
                yield
                await asyncio.to_thread(wait_for, self.settled, "every server to serve the last change")
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        for moment in self.moments:
            # What was replaced before a server was asked again was never seen there.
            moment.servers = {server: self._seen(moment, server) for server in servers}

    def settled(self) -> bool:
        """Whether every server serves the last change."""
        return bool(self.moments) and set(self._servers) == set(self.moments[-1].servers)

    def _seen(self, moment: Moment, server: str) -> float:
        since = self.moments[self.moments.index(moment) :]
        return next(each.servers[server] for each in since if server in each.servers)

    async def _follow(self) -> None:
        async for listing in follow(self._world.connection, EXPERIMENTS, self._world.namespace):
            now = time.monotonic()
            thing = listing.items.get((self._world.namespace, self._name))
            if thing is None or (self.things and self.things[-1] == thing):
                continue
            self.things.append(thing)
            meta, found = thing["metadata"], experiment_in_force(thing)
            number = experiment_digest(meta["uid"], found.name, meta["generation"], found.effective_ranges)
            said = format_generation(number)
            if not self.moments or self.moments[-1].said != said:
                self.moments.append(Moment(now, found, said, str(thing.get("status", {}).get("phase", ""))))

    async def _ask(self, session: aiohttp.ClientSession, server: str) -> None:
        key = f"{self._world.namespace}/{self._name}"
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{server}/generation") as answer:
                    said = (await answer.json())["experiments"].get(key)
                now = time.monotonic()
                for moment in self.moments:
                    if moment.said == said:
                        moment.servers.setdefault(server, now)
            await asyncio.sleep(POLL_SECONDS)

    def weights(self, variant: str) -> list[int]:
        """The weights that a variant had, one after the other, in basis points."""
        return [moment.experiment.weights[variant] for moment in self.moments]

    def spread(self) -> list[float]:
        """How long each change took to the last server, in seconds, but for the first."""
        return sorted(max(0.0, moment.everywhere - moment.at) for moment in self.moments[1:])

    def told(self) -> str:
        """The same in words."""
        spread = [1000 * seconds for seconds in self.spread()]
        p99 = statistics.quantiles(spread, n=100, method="inclusive")[-1]
        shown = f"median {statistics.median(spread):.0f} ms, p99 {p99:.0f} ms"
        return f"from the decision to the last server: {shown}, of {len(spread)} changes"

    def wrong(self, sent: Iterable[Sent]) -> Counter[str]:
        """Requests that no variant of the user's could have answered at that time, by what was wrong."""
        found: Counter[str] = Counter()
        for each in sent:
            allowed = {variant_of(moment.experiment, each.user) for moment in self._in_force(each.begun, each.ended)}
            stamped = each.version or "unstamped"
            if each.status and stamped not in allowed:
                found[f"{each.door}: {stamped}, not {' or '.join(sorted(allowed))}"] += 1
            elif each.served and each.served != each.version:
                found[f"{each.door}: {stamped}, served by {each.served}"] += 1
        return found

    def _in_force(self, begun: float, ended: float) -> Sequence[Moment]:
        """What some server may have served between two times."""
        return [
            moment
            for moment, after in zip(self.moments, [*self.moments[1:], None], strict=True)
            if moment.at - LATE_SECONDS <= ended and (after is None or begun <= after.everywhere)
        ]
