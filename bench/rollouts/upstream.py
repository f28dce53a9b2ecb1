"""The models of all rollouts, as one lean server in the load generator's process.

Envoy tells it with every request which experiment and variant it is for. It answers after the user's own time, or with
503, and counts what it answered, independent of Envoy's statistics.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from abmesh.analysis.truth import NO_OUTAGE, Outage
from abmesh.experiment import names
from bench.rollouts.naive import Peeking
from bench.rollouts.people import fails, traits

UNIT: Final = "x-user-id"
_BETWEEN: Final = 0.25
"""Share of the variance of durations' logarithms that lies between users."""

_GOOD: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"
_BAD: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Model:
    """How one variant answers.

    Attributes:
        error_rate: mean of the users' error rates, before the factor.
        error_factor: what every user's error rate is multiplied by.
        latency_ms: median duration, in milliseconds; errors take as long.
        spread: standard deviation of the durations' logarithm.
        outage: a share of the requests that fails whoever sends them, at once or as other answers do.
    """

    error_rate: float
    error_factor: float = 1.0
    latency_ms: float = 10.0
    spread: float = 0.2
    outage: Outage = NO_OUTAGE


@dataclass(slots=True)
class Answered:
    """What one experiment's variants answered: requests and errors by variant, and a naive look at them."""

    requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peeking: Peeking = field(default_factory=Peeking)


class Upstream:
    """The server's state.

    Attributes:
        models: by experiment and variant.
        answered: by experiment.
        port: that it listens on.
        unknown: requests that name no experiment or variant of ours; they are answered with 503.
        rates: error rates of users who have one whatever the others meet, by name.
    """

    def __init__(
        self, models: Mapping[tuple[str, str], Model], seed: int, rates: Mapping[str, float] | None = None
    ) -> None:
        self.models = dict(models)
        self.rates = dict(rates or {})
        self.answered: dict[str, Answered] = defaultdict(Answered)
        self.port = 0
        self.unknown = 0
        self._chance = random.Random(seed)
        self._seen: dict[str, int] = defaultdict(int)

    def answer(self, head: str) -> tuple[float, bytes]:
        """Seconds after which a request is answered, and the answer.

        Args:
            head: request line and headers, in lower case.
        """
        experiment, variant = header(head, names.EXPERIMENT), header(head, names.MODEL_VERSION)
        model = self.models.get((experiment, variant))
        if model is None:
            self.unknown += 1
            return 0.0, _BAD
        user = header(head, UNIT)
        self._seen[user] += 1
        failed = fails(user, self._seen[user], model.error_rate, model.error_factor, self.rates.get(user))
        down = model.outage.share > 0 and self._chance.random() < model.outage.share
        slowness = traits(user, model.error_rate).slowness
        normal = math.sqrt(_BETWEEN) * slowness + math.sqrt(1 - _BETWEEN) * self._chance.gauss(0, 1)
        found = self.answered[experiment]
        found.requests[variant] += 1
        found.errors[variant] += failed or down
        found.peeking.look(found.requests, found.errors)
        if down and model.outage.fast:
            return 0.0, _BAD
        return model.latency_ms / 1000 * math.exp(model.spread * normal), _BAD if failed or down else _GOOD


def header(head: str, name: str) -> str:
    """A header's value in a request's head in lower case; empty if it is not there."""
    _, found, rest = head.partition(f"\r\n{name}:")
    return rest.partition("\r\n")[0].strip() if found else ""


class _Connection(asyncio.Protocol):
    """One of Envoy's connections, which has one request under way at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        self._buffer = rest
        seconds, answer = self._upstream.answer(head.decode("latin-1").lower() + "\r\n")
        self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.write, answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        if self._timer is not None:
            self._timer.cancel()


@asynccontextmanager
async def serving(
    models: Mapping[tuple[str, str], Model], seed: int, rates: Mapping[str, float] | None = None
) -> AsyncIterator[Upstream]:
    """Serve on a free port of the loopback interface until the block ends; clients must have gone by then."""
    upstream = Upstream(models, seed, rates)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(upstream), "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server:
        yield upstream
