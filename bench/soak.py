"""Full load for a long time, by peers of which many give up: does anything fail that should not, or grow?

    python -m bench.soak --seconds 600 --connections 256

Each connection makes one call after the other, as fast as the server answers, the way Envoy does: headers, one message,
and a reset once the answer is complete; one connection in ten has a time limit for its calls, or asks as older Envoys
did. Users are more than the server remembers. Some calls are given up, at a point chosen at random, and some
connections with them. Every other call must be answered with the very bytes that are due. Exit code 1 if one was not,
if streams or connections stay open at the end, if memory grew, or if most calls did not go the usual, short way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from bench.soak_messages import Due
from bench.soak_peer import Peer, Tally

_TOLERANCE_MB: Final = 3.0
"""Growth of memory from the first third of the run to the last that is put down to chance."""

_LEAST_USUAL: Final = 0.6
"""Of all calls. Two of ten are given up before the server has read them, or are of a peer that is not usual."""

_WAIT: Final = 20.0


@dataclass
class Soaked(Tally):
    """What a run came to.

    Attributes:
        samples: what the server said of itself: seconds since the start, streams, connections, MB.
        left: streams and connections that the server still had when all peers had gone; -1 for unknown.
        seconds: how long peers made calls.
        usual: calls that went the server's short way; None where the transport has none.
    """

    samples: list[tuple[float, int, int | None, float]] = field(default_factory=list)
    left: tuple[int, int] = (-1, -1)
    seconds: float = 0.0
    usual: int | None = None

    @property
    def usual_share(self) -> float | None:
        """Share of all calls that went the server's short way; None where the transport has none."""
        calls = self.answered + self.given_up.total() + self.failed.total()
        return None if self.usual is None else self.usual / max(1, calls)

    def grown_mb(self) -> float:
        """Median memory of the last third of the run beyond that of the second third: the first one warms up."""
        third = len(self.samples) // 3
        memory = [sample[3] for sample in self.samples]
        return _median(memory[2 * third :]) - _median(memory[third : 2 * third]) if third else 0.0

    def faults(self) -> list[str]:
        """What should not be, in words."""
        found = [f"{count} calls failed: {what}" for what, count in sorted(self.failed.items())]
        if any(self.left):
            found.append(f"{self.left[0]} streams and {self.left[1]} connections were left open")
        if self.grown_mb() > _TOLERANCE_MB:
            found.append(f"memory grew by {self.grown_mb():.1f} MB")
        if self.usual_share is not None and self.usual_share < _LEAST_USUAL:
            found.append(f"only {self.usual_share:.0%} of the calls went the usual way")
        return found


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


class _Load:
    """All connections; each that has left is replaced until the end."""

    def __init__(self, soaked: Soaked, port: int, aborts: float, seed: int) -> None:
        self._soaked = soaked
        self._port = port
        self._aborts = aborts
        self._chance = random.Random(seed)
        self._due = Due()
        self._peers: set[Peer] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._over = False

    def open(self) -> None:
        task = asyncio.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        peer = Peer(self._soaked, random.Random(self._chance.random()), self._aborts, self._due, self._gone)
        self._peers.add(peer)
        try:
            await asyncio.get_running_loop().create_connection(lambda: peer, "127.0.0.1", self._port)
        except OSError as error:
            self._soaked.failed[f"no connection: {error}"] += 1
            self._peers.discard(peer)

    def _gone(self, peer: Peer) -> None:
        self._peers.discard(peer)
        if not self._over:
            self.open()

    async def stop(self) -> None:
        """Let what is under way be answered."""
        self._over = True
        await asyncio.gather(*self._opening)
        for peer in list(self._peers):
            peer.stop()
        deadline = time.monotonic() + _WAIT
        while self._peers and time.monotonic() < deadline:  # noqa: ASYNC110  nobody else waits for the last one
            await asyncio.sleep(0.02)
        if self._peers:
            self._soaked.failed["not answered in time"] += len(self._peers)


async def soak(transport: str, seconds: float, connections: int, aborts: float = 0.1, seed: int = 1) -> Soaked:
    """Load a server of its own.

    Args:
        transport: ``nghttp2`` or ``grpcio``.
        seconds: how long.
        connections: how many at the same time.
        aborts: share of the calls that peers give up, 0..1.
        seed: of everything that is random.
    """
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "bench.soaked", transport]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert process.stdin is not None
    soaked = Soaked()
    try:
        port = int(json.loads(await process.stdout.readline())["address"].rpartition(":")[2])
        started = time.monotonic()
        reading = asyncio.create_task(_read(process.stdout, soaked, started))
        load = _Load(soaked, port, aborts, seed)
        for _ in range(connections):
            load.open()
        await asyncio.sleep(seconds)
        soaked.seconds = time.monotonic() - started
        kept = len(soaked.samples)
        await load.stop()
        deadline = time.monotonic() + _WAIT
        left = kept
        while not reading.done() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            if len(soaked.samples) > left + 1:  # the first may be from before
                left = len(soaked.samples)
                soaked.left = (soaked.samples[-1][1], soaked.samples[-1][2] or 0)
                if not any(soaked.left):
                    break
        if reading.done():
            soaked.failed["the server ended"] += 1
        del soaked.samples[kept:]
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _WAIT)
        except TimeoutError:
            process.kill()
            await process.wait()
    await reading
    return soaked


async def _read(lines: asyncio.StreamReader, soaked: Soaked, started: float) -> None:
    async for line in lines:
        said = json.loads(line)
        soaked.usual = said["usual"]
        soaked.samples.append((time.monotonic() - started, said["streams"], said["connections"], said["rss_mb"]))


def main() -> int:
    """Run as the arguments say, and tell what came of it."""
    parser = argparse.ArgumentParser(description="Full load for a long time, with random aborts.")
    parser.add_argument("--transport", choices=("nghttp2", "grpcio"), default="nghttp2")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--aborts", type=float, default=0.1, help="share of calls that peers give up (0..1)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soaked = asyncio.run(soak(options.transport, options.seconds, options.connections, options.aborts, options.seed))
    step = max(1, len(soaked.samples) // 20)
    for at, streams, connections, memory in soaked.samples[::step]:
        print(f"{at:7.1f} s {streams:6d} streams open {connections!s:>5} connections {memory:8.1f} MB")
    given_up = ", ".join(f"{count} {where}" for where, count in sorted(soaked.given_up.items()))
    print(f"{soaked.answered} calls answered in {soaked.seconds:.0f} s; given up by their peers: {given_up}")
    if soaked.usual_share is not None:
        print(f"{soaked.usual_share:.1%} of all calls went the usual, short way")
    print(
        f"memory grew by {soaked.grown_mb():.1f} MB; left open: {soaked.left[0]} streams, {soaked.left[1]} connections"
    )
    faults = soaked.faults()
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
