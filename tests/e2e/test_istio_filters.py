"""EnvoyFilters applied in a real Envoy to a route as Istio renders it: what is ours works, and what is theirs stays."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from abmesh.local.processes import free_ports
from abmesh.mesh.istio.apply import applied
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.stats_paths import STATS_PATH
from tests.abmesh.mesh.istio.worlds import USUAL, A, B, experiment, placed, rendered
from tests.e2e.echo_upstream import CLAIMED_VERSION, echo_upstream
from tests.e2e.envoy_process import EnvoyProcess
from tests.e2e.rendered_mesh import RenderedMesh, Reply, StandInServer, user

TYPES = "type.googleapis.com/envoy.extensions.filters"
HOST = {"host": "chat.example.com"}
USER = user(experiment="llm/chat")


def _cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def their_bootstrap(ports: dict[str, int], listen: int, admin: int) -> dict[str, Any]:
    """What Istio makes of the usual VirtualService with settings of its owner's, and of another host."""
    retries = {"retry_on": "5xx", "num_retries": 2}
    split = {"clusters": [{"name": A, "weight": 90}, {"name": B, "weight": 10}]}
    added = {"header": {"key": "x-theirs", "value": "yes"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    beta = {
        "match": {"prefix": "/", "headers": [{"name": "x-user-group", "string_match": {"exact": "beta"}}]},
        "route": {"cluster": B},
    }
    v1 = {
        "name": "v1",
        "match": {"prefix": "/v1/"},
        "route": {"weighted_clusters": split, "timeout": "1s", "prefix_rewrite": "/api/", "retry_policy": retries},
        "request_headers_to_add": [added],
        "response_headers_to_add": [added],
    }
    moved = {"name": "v1", "match": {"prefix": "/old"}, "redirect": {"path_redirect": "/v1/"}}
    hosts = [
        {"name": "chat.example.com:80", "domains": ["chat.example.com"], "routes": [moved, beta, v1]},
        {
            "name": "other",
            "domains": ["*"],
            "routes": [{"name": "v1", "match": {"prefix": "/"}, "route": {"cluster": A}}],
        },
    ]
    manager = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "route_config": {"name": "http.80", "virtual_hosts": hosts},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listen}}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "stats_flush_interval": "0.5s",
        "static_resources": {
            "clusters": [_cluster(A, ports["model-a"]), _cluster(B, ports["model-b"])],
            "listeners": [{"name": "0.0.0.0_80", "address": address, "filter_chains": [chain]}],
        },
    }


class Gateway(RenderedMesh):
    """A gateway with our EnvoyFilters."""

    statistics: str = ""

    async def ask(self, path: str = "/v1/x", headers: dict[str, str] | None = None) -> Reply:
        return await self.get(path, HOST | (headers or {}))

    async def split(self, headers: dict[str, str] | None = None, count: int = 200) -> Counter[str]:
        """Which upstream answers how many of some equal requests."""
        replies = await asyncio.gather(*(self.ask(headers=headers) for _ in range(count)))
        assert all(reply.status == 200 for reply in replies)
        return Counter(reply.upstream for reply in replies)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """The usual route, with events, and the stand-in server."""
    listen, admin, statistics = free_ports(3)
    short = tempfile.mkdtemp(prefix="abmesh-")
    server = StandInServer(f"unix:{short}/s")
    await asyncio.to_thread(server.start)
    try:
        async with echo_upstream("model-a") as a, echo_upstream("model-b") as b, aiohttp.ClientSession() as session:
            ports = {"model-a": a, "model-b": b}
            made = _rendered(f"{short}/s", admin, statistics)
            bodies = [item.body for item in made.filters]
            bootstrap = applied(their_bootstrap(ports, listen, admin), bodies, "GATEWAY")
            envoy = EnvoyProcess(bootstrap, tmp_path)
            await asyncio.to_thread(envoy.start)
            try:
                made_gateway = Gateway(envoy, server, session, ports)
                made_gateway.statistics = f"http://127.0.0.1:{statistics}"
                yield made_gateway
            finally:
                envoy.stop()
    finally:
        server.end()
        shutil.rmtree(short, ignore_errors=True)


def _rendered(socket: str, admin: int, statistics: int) -> Rendered:
    made = rendered(
        USUAL,
        placed(experiment(events=["click"])),
        server_socket=socket,
        admin=f"127.0.0.1:{admin}",
        statistics=f"127.0.0.1:{statistics}",
    )
    assert not made.refusals
    return made


async def test_a_user_gets_their_variant_and_the_owners_settings_stay(gateway: Gateway) -> None:
    for variant in ("model-a", "model-b"):
        reply = await gateway.ask(headers=user(variant, experiment="llm/chat"))
        assert (reply.status, reply.versions, reply.upstream) == (200, (variant,), variant)
        assert (reply.path, reply.seen["x-theirs"]) == ("/api/x", "yes")
        assert reply.seen["x-ab-route"] == "llm/virtualservice/chat/v1"
    slow = await gateway.ask("/v1/x?sleep=3", USER)
    assert (slow.status, slow.versions) == (504, ("model-b",))
    assert slow.seconds < 2.9


async def test_whoever_has_no_variant_goes_to_the_control_unstamped(gateway: Gateway) -> None:
    assert await gateway.split() == {"model-a": 200}
    forged = {"x-ab-place": "4290272513", "x-ab-slice": "7", "x-model-version": "model-b", "x-ab-route": "mine"}
    assert await gateway.split(forged) == {"model-a": 200}
    reply = await gateway.ask(headers=forged)
    assert reply.versions == ()
    assert "x-ab-slice" not in reply.seen


async def test_without_the_server_everybody_goes_to_the_control(gateway: Gateway) -> None:
    gateway.server.end()
    assert await gateway.split(USER, 50) == {"model-a": 50}


async def test_other_rules_hosts_and_redirects_are_as_they_were(gateway: Gateway) -> None:
    beta = await gateway.ask(headers=USER | {"x-user-group": "beta"})
    assert (beta.upstream, beta.versions) == ("model-b", (CLAIMED_VERSION,))
    other = await gateway.get("/v1/x", USER | {"host": "else.example.com"})
    assert (other.upstream, other.versions, other.path) == ("model-a", (CLAIMED_VERSION,), "/v1/x")
    async with gateway.session.get(f"{gateway.envoy.url}/old", headers=HOST, allow_redirects=False) as moved:
        assert moved.status == 301


async def test_statistics_are_read_through_the_fence_and_by_no_other_request(gateway: Gateway) -> None:
    for _ in range(5):
        await gateway.ask(headers=USER)

    async def text() -> str:
        async with gateway.session.get(_exactly(gateway.statistics + STATS_PATH)) as answer:
            assert answer.status == 200
            return await answer.text()

    wanted = "istio.abmesh.requests.experiment.llm/chat.variant.model-b.slice.7.code.200: 5"
    for _ in range(100):
        if wanted in (found := await text()):
            break
        await asyncio.sleep(0.1)
    assert wanted in found
    assert "server.uptime: " in found
    assert "cluster." not in found
    bad = ["/", "/stats", "/stats?usedonly", STATS_PATH + "&x", "/quitquitquit", "/config_dump", "/stats/prometheus"]
    for path in bad:
        async with gateway.session.get(_exactly(gateway.statistics + path)) as answer:
            assert answer.status == 404, path
    for method in ("POST", "HEAD", "PUT"):
        async with gateway.session.request(method, _exactly(gateway.statistics + STATS_PATH)) as answer:
            assert answer.status == 404, method


def _exactly(url: str) -> URL:
    """Not encoded again."""
    return URL(url, encoded=True)


async def test_an_event_is_answered_by_the_gateway_and_counted(gateway: Gateway) -> None:
    who = user(experiment="llm/chat", set={"x-ab-event": "click"})
    async with gateway.session.post(f"{gateway.envoy.url}/_ab/events/click", headers=HOST | who) as answer:
        assert (answer.status, answer.headers["x-model-version"]) == (204, "model-b")
    async with gateway.session.post(f"{gateway.envoy.url}/_ab/events/other", headers=HOST | who) as answer:
        assert answer.status == 404
