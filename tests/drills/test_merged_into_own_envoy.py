"""Issue 12, entries 1 and 2: abmesh merged into somebody's own Envoy leaves everything else in it as it was.

The Envoy is that of docs/operations/merging.md, with foreign filters of the kinds of ours before and after ours.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from abmesh.experiment import bucketing
from abmesh.experiment.model import Document
from abmesh.experiment.places import place_of
from abmesh.experiment.store import FileStore, Rejected, Snapshot
from abmesh.mesh import parts
from abmesh.mesh.merge.look import plain
from abmesh.mesh.merge.tree import compose
from controller.sources.renderings import Renderings, RenderingsReader
from tests.drills.own_envoy import KEY, UNASSIGNED, chat, edited, healthy, own_envoy
from tests.drills.report import Drill
from tests.e2e.envoy_process import EnvoyProcess
from tests.e2e.rendered_mesh import RenderedMesh, Reply, user
from tests.e2e.support import eventually

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate"),
]


def is_unassigned(reply: Reply) -> bool:
    """Whether a request took the route's own destination as if abmesh were not there."""
    trusted = [
        name for name in reply.seen if name.startswith("x-ab-") and name not in ("x-ab-unassigned", "x-ab-reason")
    ]
    return reply.status == 200 and reply.upstream == "model-a" and not reply.versions and trusted == []


async def test_a_merged_envoy_keeps_what_it_had(tmp_path: Path, drill: Drill) -> None:
    async with own_envoy(tmp_path) as (own, server, envoy):
        merged = own.config.read_text()
        assert "is already as wanted" in await own.render(
            "--in-place", "--warmup", "", "--ext-proc", server.address, "--message-timeout", "5s"
        )
        assert own.config.read_text() == merged, "applied twice"
        await asyncio.to_thread(envoy.start)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            mesh = RenderedMesh(envoy, server, session)

            async def get(path: str, headers: Mapping[str, str]) -> Reply:
                drill.sent += 1
                return await mesh.get(path, headers)

            await eventually(lambda: healthy(mesh))

            # Every user on the right variant, through all foreign filters, with the route's rewrite.
            for number in range(100):
                variant = ("model-a", "model-b")[number % 2]
                reply = await get("/llm/chat?x=1", chat(variant, number % 50))
                right = reply.upstream == variant and reply.versions == (variant,) and reply.path == "/v1/chat?x=1"
                drill.wrong += not right
                drill.failed += reply.status != 200
            assert (drill.failed, drill.wrong) == (0, 0)
            assert reply.seen["x-team"] == "chat"
            assert reply.seen["x-after"] == "chat", "their settings of their filter on this route"
            assert reply.seen["x-envoy-expected-rq-timeout-ms"] == "2000", "the route's time limit"
            assert "x-ab-place" not in reply.seen
            async with session.get(envoy.url + "/llm/x", headers=chat()) as raw:
                assert raw.headers.getall("x-served-by") == ["edge"], "their Lua read the answer"
                assert raw.headers.getall("x-theirs") == ["kept"], "their header mutation did, too"
            drill.sent += 1

            # The other routes are as they were: no 404, no stamp of ours, TLS and hosts kept.
            for path, upstream in (("/", "website"), ("/nowhere", "website"), ("/billing/invoice", "billing")):
                reply = await get(path, KEY | user("model-b", 7, "chat-model"))
                assert (reply.status, reply.upstream, reply.path) == (200, upstream, path)
                assert reply.versions == ("what-the-upstream-says",)
                assert ("x-team" in reply.seen) == (upstream == "billing"), "their Lua is off on the website's route"
            assert reply.seen["host"] == "billing.example.com"
            calls = await mesh.counters(r"^http.edge.ext_proc.(before|after).streams_started$")
            assert calls == {
                "http.edge.ext_proc.before.streams_started": drill.sent,
                "http.edge.ext_proc.after.streams_started": drill.sent - 2,
            }

            # The route's retries and time limit hold, and a retry stays with the variant.
            reply = await get("/llm/x?status=503", chat("model-b", 7))
            assert (reply.status, reply.versions) == (503, ("model-b",))
            retries = await mesh.counters(r"^cluster.model-[ab].upstream_rq_retry$")
            assert retries == {"cluster.model-b.upstream_rq_retry": 2}
            reply = await get("/llm/x?sleep=8", chat("model-b", 7))
            assert (reply.status, reply.versions) == (504, ("model-b",))
            assert 1.5 < reply.seconds < 7
            reply = await get("/llm/x", chat("model-b", 7, set={"x-envoy-upstream-rq-timeout-ms": "60000"}))
            assert reply.seen["x-envoy-expected-rq-timeout-ms"] == "60000", "the variant's own time limit"
            evidence = 104

            # Room for our headers beside a hundred of the client's, and Envoy's own refusal beyond that.
            many = chat("model-b", 7) | {f"x-many-{number}": "1" for number in range(150)}
            assert (await get("/llm/x", many)).versions == ("model-b",)
            evidence += 1
            assert (await get("/llm/x", many | {f"x-more-{number}": "1" for number in range(40)})).status == 431

            # Refused before it was sent on: no stamp, not counted.
            reply = await get("/llm/x", user("model-b", 7, "chat-model"))
            assert (reply.status, reply.versions) == (401, ())

            # Whatever is no place of this Envoy takes the route's own destination.
            odd: list[Mapping[str, str]] = [
                KEY,
                KEY
                | {
                    "x-ab-place": str(place_of("chat-model", "model-b")),
                    "x-ab-route": "llm/chat",
                    "x-ab-slice": "3",
                    "x-ab-mirror": "theirs",
                },
                chat("model-z"),
                *(
                    chat(set={"x-ab-place": value})
                    for value in ("garbage", "", "-1", "1.0", "99999999999999999999", "1,2")
                ),
            ]
            for headers in odd:
                reply = await get("/llm/x", headers)
                drill.wrong += not is_unassigned(reply)
            assert drill.wrong == 0

            server.end(signal.SIGKILL)
            for _ in range(20):
                drill.wrong += not is_unassigned(await get("/llm/x", chat()))
            assert drill.wrong == 0
            unassigned = len(odd) + 20

            async def sums() -> tuple[int, int]:
                found = await mesh.counters()
                counted = sum(value for name, value in found.items() if name.startswith("abmesh.requests."))
                return counted, sum(value for name, value in found.items() if name.startswith(UNASSIGNED))

            async def counted() -> bool:
                return sum(await sums()) >= evidence + unassigned

            await eventually(counted)
            assert await sums() == (evidence, unassigned)
            found = await mesh.counters("^abmesh.(unassigned|requests)")
            assert all(
                ".variant.model-a." in name or ".variant.model-b." in name for name in found if "requests" in name
            )
            drill.operator_reads(*(f"{name}: {value}" for name, value in found.items() if "unassigned" in name))
        drill.operator_reads(await own.render("--remove", "--in-place"))
        assert own.config.read_text() == own.text


async def test_a_newer_document_moves_nobody_to_what_was_not_merged(tmp_path: Path, drill: Drill) -> None:
    """With the real server: the law's variants, and one that this Envoy does not know yet."""
    async with own_envoy(tmp_path, real=True) as (own, server, envoy):
        await asyncio.to_thread(envoy.start)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            mesh = RenderedMesh(envoy, server, session)
            await eventually(lambda: healthy(mesh))

            async def ask(users: range) -> dict[str, Reply]:
                found = {}
                for number in users:
                    drill.sent += 1
                    reply = await mesh.get("/llm/chat", KEY | {"x-user-id": f"user-{number}"})
                    drill.failed += reply.status != 200
                    found[f"user-{number}"] = reply
                return found

            document = FileStore(own.document).read().document
            for user_, reply in (await ask(range(150))).items():
                variant = law(document, user_)
                drill.wrong += (reply.upstream, reply.versions) != (variant, (variant,))
            assert (drill.failed, drill.wrong) == (0, 0)

            text = edited(own.document.read_text(), {"weight: 90": "weight: 50", "    events": NEWER + "    events"})
            own.document.write_text(text)
            newer = FileStore(own.document).read().document
            found = await RenderingsReader(no_document, Renderings(), timeout=timedelta(seconds=20)).ask_admin(
                envoy.admin_url
            )
            assert found is not None
            assert parts.stale(found, parts.digests(document)) == ()
            assert parts.stale(found, parts.digests(newer)) == ("chat-model/variants",)
            drill.operator_reads(f"{envoy.admin_url} must be rendered again: chat-model/variants")

            fresh = next(f"user-{number}" for number in range(200) if law(newer, f"user-{number}") == "model-c")

            async def served() -> bool:
                return is_unassigned(await mesh.get("/llm/chat", KEY | {"x-user-id": fresh}))

            await eventually(served)
            for user_, reply in (await ask(range(150))).items():
                variant = law(newer, user_)
                if variant == "model-c":
                    drill.wrong += not is_unassigned(reply)
                else:
                    drill.wrong += (reply.upstream, reply.versions) != (variant, (variant,))
            assert (drill.failed, drill.wrong) == (0, 0)
            counters = await mesh.counters("^abmesh.unassigned")
            assert set(counters) == {f"{UNASSIGNED}assigned.code.200"}
            drill.operator_reads(*(f"{name}: {value}" for name, value in counters.items()))


NEWER = "      - {name: model-c, cluster: model-b, weight: 40}\n"


def law(document: Document, unit: str) -> str:
    """The variant of a unit by the assignment law."""
    (experiment,) = document.experiments
    return experiment.cells[bucketing.bucket_of(experiment.hash_salt, unit.encode())].variant


def no_document() -> AsyncIterator[Snapshot | Rejected]:
    raise AssertionError("this reader only asks")


async def test_without_abmesh_the_example_starts(tmp_path: Path) -> None:
    async with own_envoy(tmp_path) as (own, _, envoy):
        del envoy
        bare = EnvoyProcess(plain(compose(own.text, "")), tmp_path / "bare")
        await asyncio.to_thread(bare.start)
        bare.stop()
