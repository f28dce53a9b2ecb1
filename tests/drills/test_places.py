"""Whatever stands in the header of the place: only a place of this Envoy's variants leads to one.

Forged by a client, garbled or unknown: the request goes where the route goes by itself, unstamped, and is counted as
unassigned and never as evidence.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.experiment.places import POSITIONS, place_of
from tests.drills.report import Drill
from tests.e2e.rendered_mesh import UNASSIGNED, UNKNOWN, rendered_mesh, user

OF_B = place_of("chat", "model-b")
GARBLED = [
    "",
    "x",
    "model-b",
    "0",
    "1",
    "-1",
    "1.0",
    f"{OF_B}.0",
    f"{OF_B},{OF_B}",
    f"0x{OF_B:x}",
    str(OF_B + 1),
    str(POSITIONS),
    str(2**64),
    "9" * 300,
    str(place_of("chat", "model-c")),
    str(place_of("other", "model-b")),
]


async def test_a_garbled_or_unknown_place_leads_to_the_routes_own_destination(tmp_path: Path, drill: Drill) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        for place in GARBLED * 3:
            reply = await mesh.get(headers=user(set={"x-ab-place": place}))
            drill.sent += 1
            drill.failed += reply.status != 200
            drill.wrong += (reply.upstream, reply.versions) != ("model-a", ())
            drill.wrong += bool({"x-ab-slice", "x-ab-experiment", "x-model-version", "x-ab-place"} & set(reply.seen))
        assert await mesh.counted(UNKNOWN, drill.sent) == {UNKNOWN: drill.sent}, "unassigned, and no evidence"
        drill.operator_reads(f"{UNKNOWN}: {drill.sent}")
    assert (drill.failed, drill.wrong) == (0, 0)


@pytest.mark.parametrize("up", [True, False], ids=["server up", "server down"])
async def test_a_client_cannot_choose_a_place(tmp_path: Path, drill: Drill, up: bool) -> None:
    spellings = ["x-ab-place", "X-AB-Place", "x_ab_place", "x-ab_place"]
    async with rendered_mesh(tmp_path, server=up) as mesh:
        for spelling in spellings * 5:
            forged = {spelling: str(OF_B), "x-ab-slice": "1", "x-ab-experiment": "chat", "x-model-version": "model-b"}
            reply = await mesh.get(headers=forged)
            drill.sent += 1
            drill.failed += reply.status != 200
            drill.wrong += (reply.upstream, reply.versions) != ("model-a", ())
        assert await mesh.counted(UNASSIGNED, drill.sent) == {UNASSIGNED: drill.sent}
        drill.operator_reads(f"{UNASSIGNED}: {drill.sent}")
    assert (drill.failed, drill.wrong) == (0, 0)
