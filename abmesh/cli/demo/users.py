"""The demo's users, who send requests to the models through Envoy. Run by :mod:`abmesh.cli.demo.run`.

Users do not wait for earlier answers, so a slow variant gets its full share of requests; if they waited, the split
would look wrong.

Some users have an id in a header, some in the query, some only the cookie that the mesh gave them; a few are beta
testers. The demo shows what they see: variant, status and time, measured at the client, independently of Envoy. In some
scenarios they also click and rate answers: each such event is a request with the user's identity.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import accumulate

import aiohttp

from abmesh.cli.demo.scenarios import Feedback
from abmesh.experiment.names import EVENTS_PATH

UNASSIGNED = "unassigned"


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer as a user saw it.

    Attributes:
        at: when it ended, in seconds on the monotonic clock.
        variant: ``X-Model-Version`` of the answer, or ``unassigned``.
        override: whether the user is a beta tester, who gets the candidate regardless of the weights.
        status: HTTP status; 0 if the connection broke.
        seconds: time from sending the request to the last byte.
    """

    at: float
    variant: str
    override: bool
    status: int
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether the user got no good answer."""
        return self.status == 0 or self.status >= 500


@dataclass(slots=True)
class User:
    """One user.

    Attributes:
        carries: where the user's identity is: ``header``, ``query`` or ``cookie``.
        tester: whether the user is a beta tester.
        power: whether the user is a power user, who sends four times as many requests.
    """

    number: int
    carries: str
    tester: bool
    power: bool
    cookie: str | None = None

    @property
    def segment(self) -> str:
        """The user's segment."""
        return "power" if self.power else "casual"

    def request(self, path: str = "/v1/chat/completions") -> tuple[str, dict[str, str]]:
        """Path and headers of the user's next request."""
        headers = {"x-user-segment": self.segment}
        if self.carries == "header":
            headers["x-user-id"] = f"user-{self.number}"
        elif self.carries == "query":
            path += f"?user_id=user-{self.number}"
        elif self.cookie is not None:
            headers["cookie"] = self.cookie
        if self.tester:
            headers["x-user-group"] = "beta-testers"
        return path, headers


@dataclass
class Summary:
    """What users saw of one variant over a period."""

    requests: int
    errors: int
    p50_ms: float
    p95_ms: float


@dataclass
class Population:
    """All users, and what they saw.

    Attributes:
        url: where Envoy serves clients.
        size: number of users.
        rate: average requests per second, all users together.
        streamed: share of the requests, 0..1, whose answers are streamed.
        feedback: which answers users give feedback on.
        most: most concurrent requests; on a machine that cannot keep up, users wait, so that requests do not pile up.
        seed: random seed.
    """

    url: str
    size: int = 2000
    rate: float = 120.0
    streamed: float = 0.5
    feedback: Feedback = field(default_factory=dict)
    most: int = 64
    seed: int = 1
    requests: int = 0
    errors: int = 0
    recent: deque[Seen] = field(default_factory=lambda: deque(maxlen=20_000))
    by_variant: Counter[str] = field(default_factory=Counter)
    errors_by_variant: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    events_refused: int = 0

    def __post_init__(self) -> None:
        """Create the users."""
        chance = random.Random(self.seed)
        carried = ("header", "header", "cookie", "query")
        self.users = [
            User(number, chance.choice(carried), tester=chance.random() < 0.01, power=chance.random() < 0.3)
            for number in range(self.size)
        ]
        self._chance = chance

    async def run(self) -> None:
        """Send requests until cancelled: a Poisson stream of arrivals, power users four times as often."""
        places = asyncio.Semaphore(self.most)
        weights = list(accumulate(4.0 if user.power else 1.0 for user in self.users))
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=30)
        # A shared jar would give one user's cookie to all the others; each user keeps their own.
        jar = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar) as session,
            asyncio.TaskGroup() as tasks,
        ):
            due = time.monotonic()
            while True:
                due += self._chance.expovariate(self.rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await places.acquire()
                due = max(due, time.monotonic() - 1.0)
                user = self._chance.choices(self.users, cum_weights=weights)[0]
                tasks.create_task(self.ask(session, user)).add_done_callback(lambda _: places.release())

    async def ask(self, session: aiohttp.ClientSession, user: User) -> None:
        """Send one request of a user, and record the answer or the failure."""
        path, headers = user.request()
        body = {
            "model": "chat",
            "messages": [{"role": "user", "content": "What should we roll out next?"}],
            "stream": self._chance.random() < self.streamed,
        }
        started = time.monotonic()
        variant, status = UNASSIGNED, 0
        try:
            async with session.post(self.url + path, json=body, headers=headers) as response:
                await response.read()
                status = response.status
                variant = response.headers.get("x-model-version", UNASSIGNED)
                if user.carries == "cookie" and "set-cookie" in response.headers:
                    user.cookie = response.headers["set-cookie"].partition(";")[0]
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        now = time.monotonic()
        seen = Seen(now, variant, user.tester, status, now - started)
        self.record(seen)
        if not seen.failed:
            for event, share in self.feedback.get(variant, {}).get(user.segment, {}).items():
                if self._chance.random() < share:
                    await self.react(session, user, event)

    async def react(self, session: aiohttp.ClientSession, user: User, event: str) -> None:
        """Send a feedback event of a user, as a web page would, and record whether it was accepted."""
        path, headers = user.request(f"{EVENTS_PATH}{event}")
        try:
            async with session.post(self.url + path, headers=headers) as response:
                accepted = response.status == HTTPStatus.NO_CONTENT
        except (aiohttp.ClientError, TimeoutError):
            accepted = False
        self.events[event] += 1
        self.events_refused += not accepted

    def record(self, seen: Seen) -> None:
        """Count one answer."""
        self.requests += 1
        self.by_variant[seen.variant] += 1
        if seen.failed:
            self.errors += 1
            self.errors_by_variant[seen.variant] += 1
        self.recent.append(seen)

    def summary(self, since: float) -> Mapping[str, Summary]:
        """What users saw of each variant since a moment of the monotonic clock, without beta testers."""
        grouped: dict[str, list[Seen]] = {}
        for seen in self.recent:
            if seen.at >= since and not seen.override:
                grouped.setdefault(seen.variant, []).append(seen)
        return {variant: _summarise(answers) for variant, answers in sorted(grouped.items())}


def _summarise(answers: list[Seen]) -> Summary:
    times = sorted(seen.seconds * 1000 for seen in answers if not seen.failed)
    return Summary(
        requests=len(answers),
        errors=sum(seen.failed for seen in answers),
        p50_ms=_quantile(times, 0.50),
        p95_ms=_quantile(times, 0.95),
    )


def _quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile of sorted values; NaN without values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
