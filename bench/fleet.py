"""Admin endpoints of many Envoys, made of one recorded answer: ``python -m bench.fleet ENVOYS`` serves them.

All are on one port, each under a path of its own: ``http://127.0.0.1:PORT/17/stats`` is the eighteenth Envoy's. The
port is printed first. ``POST /advance`` goes on to the next moment, at which every count of every Envoy has grown and
some bins of histograms have been used for the first time. No two Envoys in a row count the same.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from controller.evidence.parse import TOTALS, UPTIME

RECORDED: Final = Path(__file__).with_name("recorded") / "answer.txt.gz"
SECONDS: Final = 5
"""Between two moments, by the Envoys' uptimes."""

_HIDDEN: Final = 5
_PER_BIN: Final = 50
"""Of fifty bins five are not used at first, one fewer at every moment."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an answer: texts before counts, the counts, and what is between two of them."""

    before: tuple[str, ...]
    counts: tuple[int, ...]
    start: str = ""
    bins: bool = False


def recorded() -> list[Line]:
    """The recorded answer of a busy Envoy."""
    lines = []
    for text in gzip.decompress(RECORDED.read_bytes()).decode().splitlines():
        if text.startswith(TOTALS):
            items = [item.rpartition(":") for item in text[len(TOTALS) :].split(", ")]
            before, counts = tuple(f"{item[0]}:" for item in items), tuple(int(item[2]) for item in items)
            lines.append(Line(before, counts, TOTALS, bins=True))
        elif text.startswith((" ", UPTIME)) or text.endswith(":"):
            lines.append(Line((), (), text))
        else:
            name, _, count = text.rpartition(" ")
            lines.append(Line((f"{name} ",), (int(count),)))
    return lines


def answer(lines: list[Line], envoy: int, moment: int) -> bytes:
    """What one of the Envoys says at a moment, both numbered from 0."""
    factor = 4 + envoy % 5 + moment
    shown = max(0, _HIDDEN - moment)
    made = []
    for number, line in enumerate(lines):
        if line.bins:
            first = envoy * 7 + number * 13
            made.append(
                line.start
                + ", ".join(
                    f"{before}{count * factor}"
                    for place, (before, count) in enumerate(zip(line.before, line.counts, strict=True), first)
                    if place % _PER_BIN >= shown
                )
            )
        elif line.counts:
            made.append(f"{line.before[0]}{line.counts[0] * factor}")
        elif line.start.startswith(UPTIME):
            made.append(f"{UPTIME}: {3600 + moment * SECONDS}")
        else:
            made.append(line.start)
    return "\n".join([*made, ""]).encode()


class Fleet:
    """The Envoys' endpoints."""

    def __init__(self, envoys: int) -> None:
        self._lines = recorded()
        self._envoys = envoys
        self._moment = -1
        self._answers: list[bytes] = []
        self._advance()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/{envoy:[0-9]+}/stats", self._stats)
        application.router.add_post("/advance", self._advanced)
        return application

    def _advance(self) -> None:
        self._moment += 1
        self._answers = [answer(self._lines, envoy, self._moment) for envoy in range(self._envoys)]

    async def _stats(self, request: web.Request) -> web.Response:
        response = web.Response(body=self._answers[int(request.match_info["envoy"])], content_type="text/plain")
        response.enable_chunked_encoding()  # as Envoy does
        return response

    async def _advanced(self, _: web.Request) -> web.Response:
        self._advance()
        return web.Response(text=str(sum(map(len, self._answers))))


async def _serve(envoys: int) -> None:
    runner = web.AppRunner(Fleet(envoys).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.fleet")
    parser.add_argument("envoys", type=int)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args().envoys))


if __name__ == "__main__":
    main()
