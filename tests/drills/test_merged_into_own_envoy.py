"""Issue 12, entries 1 and 2: abmesh merged into somebody's own Envoy leaves everything else in it as it was.

The Envoy is that of docs/operations/merging.md, with foreign filters of the kinds of ours before and after ours.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from abmesh.experiment.places import place_of
from abmesh.local.processes import free_ports
from abmesh.mesh.merge.look import plain
from abmesh.mesh.merge.tree import compose
from tests.drills.report import Drill
from tests.e2e.echo_upstream import echo_upstream
from tests.e2e.envoy_process import EnvoyProcess
from tests.e2e.rendered_mesh import RenderedMesh, Reply, StandInServer, user
from tests.e2e.support import abmesh, eventually
from tests.paths import ROOT

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate"),
]

EXAMPLES = ROOT / "docs" / "examples"
KEY = {"x-api-key": "k"}
ROUTE = ("--listener", "edge", "--virtual-host", "api", "--route", "llm/chat")
UNASSIGNED = "abmesh.unassigned.route.llm/chat.reason."
TYPES = "type.googleapis.com/envoy.extensions.filters.http"

BEFORE = f"""\
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": {TYPES}.ext_proc.v3.ExternalProcessor
                      stat_prefix: before
                      grpc_service: {{envoy_grpc: {{cluster_name: theirs}}}}
                      processing_mode: {{response_header_mode: SKIP}}
                      forward_rules: {{disallowed_headers: {{patterns: [{{exact: x-user-id}}]}}}}
                  - name: envoy.filters.http.header_mutation
                    typed_config: {{"@type": {TYPES}.header_mutation.v3.HeaderMutation, mutations: {{}}}}
"""
AFTER = f"""\
                  - name: after
                    typed_config:
                      "@type": {TYPES}.ext_proc.v3.ExternalProcessor
                      stat_prefix: after
                      grpc_service: {{envoy_grpc: {{cluster_name: theirs}}}}
                      processing_mode: {{response_header_mode: SKIP}}
                      forward_rules: {{disallowed_headers: {{patterns: [{{exact: x-user-id}}]}}}}
                  - name: lua.after
                    typed_config:
                      "@type": {TYPES}.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          function envoy_on_request(handle)
                            handle:headers():add("x-after", "none")
                          end
                  - name: envoy.filters.http.router
"""
ON_CHAT = f"""\
                          typed_per_filter_config:
                            lua.after:
                              "@type": {TYPES}.lua.v3.LuaPerRoute
                              source_code:
                                inline_string: |
                                  function envoy_on_request(handle)
                                    handle:headers():add("x-after", "chat")
                                  end
                            envoy.filters.http.header_mutation:
                              "@type": {TYPES}.header_mutation.v3.HeaderMutationPerRoute
                              mutations:
                                response_mutations:
                                  - append: {{header: {{key: x-theirs, value: kept}}}}
"""
ON_WEBSITE = f"""\
                          typed_per_filter_config:
                            after: {{"@type": {TYPES}.ext_proc.v3.ExtProcPerRoute, disabled: true}}
                            envoy.filters.http.lua: {{"@type": {TYPES}.lua.v3.LuaPerRoute, disabled: true}}
"""
THEIRS = """\
    - name: theirs
      type: STATIC
      load_assignment:
        cluster_name: theirs
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {pipe: {path: SOCKET}}}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
"""


@dataclass
class Own:
    """The operator's files, and what their Envoy talks to."""

    config: Path
    document: Path
    text: str
    mesh: RenderedMesh | None = None

    async def render(self, *flags: str) -> str:
        """Run ``abmesh render envoy --into``; what the operator reads."""
        command = ["render", "envoy", "--into", str(self.config), *ROUTE, *flags]
        code, output, errors = await abmesh(*command, config=self.document)
        assert code == 0, errors
        return output + errors


def edited(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def authz() -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if "x-api-key" in request.headers else 401)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=DNS:billing.example.com"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    return made, context


@asynccontextmanager
async def own_envoy(folder: Path) -> AsyncIterator[tuple[Own, StandInServer, EnvoyProcess]]:
    """The files, our server, and an Envoy that is not started yet."""
    async with AsyncExitStack() as stack:
        short = tempfile.mkdtemp(prefix="abmesh-")
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        ours, theirs = StandInServer(f"unix:{short}/ours"), StandInServer(f"unix:{short}/theirs")
        for server in (ours, theirs):
            stack.callback(server.end)
            await asyncio.to_thread(server.start)
        ca, context = certificate(folder)
        ports = {
            name: await stack.enter_async_context(echo_upstream(name)) for name in ("model-a", "model-b", "website")
        }
        ports["billing"] = await stack.enter_async_context(echo_upstream("billing", context))
        ports["authz"] = await stack.enter_async_context(authz())
        listen, admin = free_ports(2)
        changes = {
            f"port_value: {was}": f"port_value: {ports[name]}"
            for name, was in (("model-a", 8001), ("website", 8080), ("authz", 9000))
        }
        text = edited(
            (EXAMPLES / "existing-envoy.yaml").read_text(),
            {
                **changes,
                "address: billing.example.com, port_value: 443": f"address: 127.0.0.1, port_value: {ports['billing']}",
                "/etc/ssl/certs/ca-certificates.crt": str(ca),
                "address: 0.0.0.0, port_value: 10000": f"address: 127.0.0.1, port_value: {listen}",
                "port_value: 9901": f"port_value: {admin}",
                "                  # The team that pays": BEFORE + "                  # The team that pays",
                "                  - name: envoy.filters.http.router\n": AFTER,
                "                          route:\n                            cluster: model-a": ON_CHAT
                + "                          route:\n                            cluster: model-a",
                "route: {cluster: website}\n": "route: {cluster: website}\n" + ON_WEBSITE,
                "    - name: authz\n      type": THEIRS.replace("SOCKET", f"{short}/theirs")
                + "    - name: authz\n      type",
            },
        )
        document = edited(
            (EXAMPLES / "existing-experiments.yaml").read_text(),
            {"8001": str(ports["model-a"]), "8002": str(ports["model-b"])},
        )
        own = Own(folder / "own.yaml", folder / "experiments.yaml", text)
        own.config.write_text(text)
        own.document.write_text(document)
        await own.render(
            "--in-place", "--before", "after", "--warmup", "", "--ext-proc", ours.address, "--message-timeout", "5s"
        )
        envoy = EnvoyProcess(plain(compose(own.config.read_text(), "")), folder)
        stack.callback(envoy.stop)
        yield own, ours, envoy


def chat(variant: str = "model-b", slice_: int | None = 7, **script: object) -> dict[str, str]:
    return KEY | user(variant, slice_, "chat-model", **script)


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

            async def healthy() -> bool:
                found = await mesh.counters("^cluster.abmesh-ext-proc.membership_healthy$")
                return found.get("cluster.abmesh-ext-proc.membership_healthy") == 1

            await eventually(healthy)

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
            evidence = 103

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


async def test_without_abmesh_the_example_starts(tmp_path: Path) -> None:
    async with own_envoy(tmp_path) as (own, _, envoy):
        del envoy
        bare = EnvoyProcess(plain(compose(own.text, "")), tmp_path / "bare")
        await asyncio.to_thread(bare.start)
        bare.stop()
