"""Requests with ever more headers: what abmesh adds must not turn one that Envoy would pass into an error.

Envoy allows 100 headers, and counts again after our server has added its own: a request with 88 to 100 got a 500.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from abmesh.mesh.edge import MAX_HEADERS
from tests.drills.report import Drill
from tests.e2e.lanes import LANES, lanes, request, send_alone

_OURS = 20
"""More than abmesh and Envoy add to a request together."""

_ALONE = 100
"""Headers of a request that Envoy passes without abmesh."""


async def test_as_many_headers_as_envoy_allows_by_itself_pass_and_too_many_are_refused_as_such(
    tmp_path: Path, drill: Drill
) -> None:
    async with lanes(tmp_path, issue_cookie={"name": "sid", "max_age": "1h"}) as two:
        statuses: Counter[tuple[str, int]] = Counter()
        for lane in LANES:
            # With a unit, and without one, for which the native lane asks the server.
            for unit in ([b"x-user-id: ada"], []):
                for count in (*range(80, 104, 2), 150, *range(MAX_HEADERS - _OURS, MAX_HEADERS + 4)):
                    lines = [*unit, *(b"x-h%d: 1" % number for number in range(count - len(unit)))]
                    reply = await send_alone(two.port, request(lane, lines))
                    drill.sent += 1
                    statuses[lane, reply.status] += 1
                    if count <= max(_ALONE, MAX_HEADERS - _OURS):
                        drill.failed += reply.status != 200
                        drill.wrong += reply.stamp != reply.upstream or not reply.slice
                    else:
                        drill.failed += reply.status not in (200, 431)
    assert (drill.failed, drill.wrong) == (0, 0), statuses
    assert {status for _, status in statuses} == {200, 431}
    drill.operator_reads(*(f"{lane}: {count} answers {status}" for (lane, status), count in sorted(statuses.items())))


async def test_so_it_is_over_http2(tmp_path: Path, drill: Drill) -> None:
    """Beyond the limit Envoy may also end the stream, as it does without us; curl then knows no status."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl program")
    async with lanes(tmp_path) as two:
        statuses: Counter[tuple[str, str]] = Counter()
        for lane in LANES:
            for count in (1, 90, 100, MAX_HEADERS - _OURS, MAX_HEADERS - 8, MAX_HEADERS + 4):
                lines = [f"-Hx-h{number}: 1" for number in range(count - 1)]
                process = await asyncio.create_subprocess_exec(
                    *(
                        curl,
                        "--silent",
                        "--http2-prior-knowledge",
                        "--max-time",
                        "20",
                        "--output",
                        str(tmp_path / "body"),
                    ),
                    *(
                        "--write-out",
                        "%{http_code} %{http_version} %header{x-model-version}",
                        "-Hx-user-id: ada",
                        *lines,
                    ),
                    f"http://127.0.0.1:{two.port}/{lane}/x",
                    stdout=asyncio.subprocess.PIPE,
                )
                told, _ = await process.communicate()
                status, version, stamp = told.decode().split(" ")
                drill.sent += 1
                statuses[lane, status] += 1
                drill.wrong += version not in ("2", "0")
                if count <= MAX_HEADERS - _OURS:
                    drill.failed += status != "200"
                    drill.wrong += not stamp
                else:
                    drill.failed += status not in ("200", "431", "000")
    drill.operator_reads(*(f"{lane}: {count} answers {status}" for (lane, status), count in sorted(statuses.items())))
    assert (drill.failed, drill.wrong) == (0, 0), statuses
    assert statuses["server", "200"] >= 4
