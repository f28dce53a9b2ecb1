"""Users of some gateways, who send requests at a constant rate and do not wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.cluster.asking import HOST, Door, Json


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, and what came of it.

    Attributes:
        begun: when it was sent, in seconds on the monotonic clock.
        ended: when all of the answer was there.
        door: name of the gateway.
        user: who sent it.
        status: of the answer; 0 if there was none.
        version: that the gateway stamped; empty if it did not.
        served: name of the model that answered; empty if none did.
    """

    begun: float
    ended: float
    door: str
    user: str
    status: int
    version: str
    served: str


@dataclass
class Load:
    """A constant load.

    Attributes:
        doors: of the gateways, which take turns.
        users: who take turns too.
        rate: requests per second, all together.
        path: of every request.
        body: of every request, which is a POST then; None for a GET.
        most: most requests at the same time; on a machine that cannot keep up they wait, and do not pile up.
        sent: what was sent so far, in the order of the answers.
    """

    doors: Mapping[str, Door]
    users: Sequence[str]
    rate: float = 60.0
    path: str = "/v1/x"
    body: Json | None = None
    most: int = 32
    sent: list[Sent] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the block runs, and wait for the last answers."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def _run(self, stop: asyncio.Event) -> None:
        places, due = asyncio.Semaphore(self.most), time.monotonic()
        turns = zip(itertools.cycle(self.doors.items()), itertools.cycle(self.users), strict=False)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for (name, door), user in turns:
                due = max(due + 1 / self.rate, time.monotonic() - 1.0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
                if stop.is_set():
                    return
                await places.acquire()
                tasks.create_task(self._ask(session, name, door, user)).add_done_callback(lambda _: places.release())

    async def _ask(self, session: aiohttp.ClientSession, name: str, door: Door, user: str) -> None:
        headers, begun = {"host": HOST, "x-user-id": user}, time.monotonic()
        status, version, text = 0, "", ""
        named = None if door.trust is None else HOST
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.request(
                "GET" if self.body is None else "POST",
                door.url + self.path,
                json=self.body,
                headers=headers,
                ssl=door.trust or True,
                server_hostname=named,
            ) as answer:
                text = await answer.text()
                status, version = answer.status, answer.headers.get("x-model-version", "")
        served = str(json.loads(text).get("name", "")) if text.startswith("{") else ""
        self.sent.append(Sent(begun, time.monotonic(), name, user, status, version, served))
