"""Whether everybody serves an Experiment as it is: each ready server says so, or filters with its weights are applied.

A stage's evidence begins then. Servers are asked beside the ticks, and only while a stage waits for them. Implements
:class:`controller.rollout.serving.Serving`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import aiohttp

from abmesh.experiment.errors import StoreError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import format_generation
from abmesh.kube.generation import experiment_digest
from abmesh.text import one_line
from controller.cluster.documents import ClusterDocuments
from controller.cluster.objects import Experiments, Thing
from controller.cluster.servers import Said, Server, Servers, behind, said_of
from controller.rollout.serving import Served
from controller.state.ports import Leadership

log = logging.getLogger("abmesh.serving")

EVERY: Final = 1.0
"""Seconds between two questions to a server that does not serve a stage yet."""

_SECONDS: Final = 2.0
_AT_ONCE: Final = 16


class Filters(Protocol):
    """Who keeps the filters of gateways, as far as they hold weights."""

    def carried(self, experiment: Experiment) -> Served:
        """Whether filters with these buckets are applied, and since when."""


def generation_of(experiment: Experiment, thing: Thing) -> str:
    """What a server says that serves an Experiment as it is."""
    metadata = thing["metadata"]
    ranges = experiment.effective_ranges
    number = experiment_digest(str(metadata["uid"]), experiment.name, int(metadata.get("generation", 0)), ranges)
    return format_generation(number)


class ClusterServing:
    """Knows who serves what.

    Args:
        experiments: as they are now.
        documents: which of them are accepted.
        lease: whether this process leads; else it asks nobody.
        servers: those that are ready.
        settle: how long a filter that was applied needs until every proxy has it.
        clock: the wall clock, in UTC.

    Attributes:
        filters: says which filters are applied; None if nobody keeps any.
    """

    def __init__(
        self,
        experiments: Experiments,
        documents: ClusterDocuments,
        lease: Leadership,
        servers: Callable[[], Servers],
        settle: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._experiments = experiments
        self._documents = documents
        self._lease = lease
        self._servers = servers
        self._settle = settle
        self._clock = clock
        self._known: Mapping[str, tuple[str, Served]] = {}
        self.filters: Filters | None = None

    def of(self, experiment: Experiment) -> Served:
        """See :meth:`controller.rollout.serving.Serving.of`."""
        if experiment.lane == "native":
            return self._in_filters(experiment)
        thing = self._experiments.known(experiment.name)
        generation, served = self._known.get(experiment.name, ("", Served()))
        if thing is None or generation != generation_of(experiment, thing):
            return Served("the servers have not been asked yet")
        return served

    def _in_filters(self, experiment: Experiment) -> Served:
        if self.filters is None:
            return Served()
        served = self.filters.carried(experiment)
        return Served(served.behind, None if served.since is None else served.since + self._settle)

    async def run(self) -> None:
        """Ask while something waits for an answer, until cancelled."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_AT_ONCE),
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            trust_env=False,
        ) as session:
            while True:
                with contextlib.suppress(StoreError):  # nothing is known of the Experiments yet
                    await self.look(session)
                await asyncio.sleep(EVERY)

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Ask the servers, if there is anything that they have not confirmed.

        Raises:
            StoreError: the Experiments are not known.
        """
        if not self._lease.held:
            self._known = {}
            return
        wanted = await asyncio.to_thread(self._wanted)
        done = {name: known for name, known in self._known.items() if wanted.get(name) == known[0]}
        open_ = [name for name in wanted if name not in done or done[name][1].behind]
        if open_:
            servers = self._servers()
            if servers.trouble:
                done |= {name: (wanted[name], Served(servers.trouble)) for name in open_}
            else:
                # Together: a server that hangs must not keep the others from being asked.
                heard = await asyncio.gather(*(_ask(session, server) for server in servers.found))
                answers = list(zip(servers.found, heard, strict=True))
                now = self._clock()
                for name in open_:
                    late = behind(name, wanted[name], answers)
                    done[name] = wanted[name], Served(late) if late else Served(since=now)
        self._known = done

    def _wanted(self) -> dict[str, str]:
        """The generation of each Experiment whose rollout goes by what servers serve."""
        things = self._experiments.all()
        return {
            item.name: generation_of(item, things[item.name])
            for item in self._documents.read().document.experiments
            if item.rollout is not None and item.lane != "native" and item.name in things
        }


async def _ask(session: aiohttp.ClientSession, server: Server) -> Said:
    if not server.address:
        return Said({}, "has no port with a name by which it says what it serves (metrics, or ab-metrics in a sidecar)")
    try:
        async with session.get(f"{server.address}/generation", allow_redirects=False) as response:
            if response.status == 503:
                return Said({}, "serves nothing yet")
            if response.status != 200:
                return Said({}, f"answers /generation with status {response.status}")
            return said_of(await response.json(content_type=None))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Said({}, f"does not answer: {one_line(error) or type(error).__name__}")
