"""A steady load of users through Envoy, for tests in which something breaks meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.e2e.support import PATH, Answer, ask, eventually, session


@dataclass
class Load:
    """What happened so far.

    Attributes:
        answers: every answer, in the order in which they ended.
        broken: connections that broke, as texts.
        path: what is asked for.
    """

    url: str
    users: list[str]
    path: str = PATH
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Requests that did not end with 200."""
        failed = [f"{user}: {answer.status}" for user, answer in self.answers if answer.status != 200]
        return [*failed, *self.broken]

    def versions(self, since: int = 0) -> Counter[str | None]:
        """How many answers carried which ``X-Model-Version``, from the answer number ``since`` on."""
        return Counter(answer.variant for _, answer in self.answers[since:])

    async def more(self, count: int) -> int:
        """Wait for some further answers; the number of the first of them."""
        first = len(self.answers)

        async def enough() -> bool:
            return len(self.answers) >= first + count

        await eventually(enough, seconds=60)
        return first

    async def _work(self, client: aiohttp.ClientSession, number: int, pause: float) -> None:
        while True:
            number += 1
            user = self.users[number % len(self.users)]
            try:
                self.answers.append((user, await ask(client, self.url, {"x-user-id": user}, self.path)))
            except (aiohttp.ClientError, TimeoutError) as error:
                self.broken.append(f"{user}: {error!r}")
            await asyncio.sleep(pause)


@asynccontextmanager
async def under_load(
    url: str, users: list[str], *, concurrency: int = 4, pause: float = 0.01, path: str = PATH
) -> AsyncIterator[Load]:
    """Clients that send one request after the other until the block ends."""
    load = Load(url, users, path)
    async with session() as client:
        tasks = [
            asyncio.create_task(load._work(client, index * len(users) // concurrency, pause))
            for index in range(concurrency)
        ]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
