"""Who serves an Experiment as it is: servers are asked, and what keeps one from serving it is said by its name."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.watching import Listing
from abmesh.mesh.istio.scopes import GATEWAYS, Scope
from controller.cluster.servers import Said, Server, Servers, ServiceServers, behind, said_of, sidecar_servers
from controller.cluster.serving import ClusterServing, generation_of
from controller.cluster.stores import Stores, stores
from controller.rollout.serving import Served
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import OURS, spec

NAME = "llm/chat"


def endpoint(name: str, address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}}


PORTS = ({"name": "grpc", "port": 50051}, {"name": "metrics", "port": 9102})


def listing(*endpoints: dict[str, Any], ports: Any = PORTS) -> Listing:
    return Listing({("abmesh", "a"): {"endpoints": list(endpoints), "ports": list(ports)}}, at="7")


class TestServers:
    def test_those_of_a_service_are_its_ready_endpoints(self) -> None:
        of = ServiceServers("abmesh", "abmesh-ext-proc")
        assert of().trouble == "the EndpointSlices of the Service abmesh/abmesh-ext-proc have not been listed yet"
        of.take(Listing({}, at="", trouble="the API server refuses: forbidden"))
        assert of().trouble == "the API server refuses: forbidden"
        of.take(
            listing(
                endpoint("b", "fd00::2", ready=True), endpoint("a", "10.0.0.1"), endpoint("c", "10.0.0.3", ready=False)
            )
        )
        found = (Server("server pod a", "http://10.0.0.1:9102"), Server("server pod b", "http://[fd00::2]:9102"))
        assert of() == Servers(found)
        of.take(listing(endpoint("c", "10.0.0.3", ready=False)))
        assert of().trouble == "the Service abmesh/abmesh-ext-proc has no server that is ready"

    def test_one_without_a_port_to_ask_is_named(self) -> None:
        of = ServiceServers("abmesh", "abmesh-ext-proc")
        of.take(listing(endpoint("a", "10.0.0.1"), ports=[{"name": "grpc", "port": 50051}]))
        assert of().found == (Server("server pod a"),)

    def test_sidecars_are_in_the_pods_of_the_proxies(self) -> None:
        scope = Scope("edge", GATEWAYS, labels=(("app", "edge"),))

        def pod(name: str, ready: str = "True", port: str = "ab-metrics", **labels: str) -> dict[str, Any]:
            return {
                "metadata": {"namespace": "edge", "name": name, "labels": labels},
                "spec": {
                    "containers": [{"name": "istio-proxy"}],
                    "initContainers": [{"name": "abmesh", "ports": [{"name": port, "containerPort": 9102}]}],
                },
                "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
            }

        pods = [
            pod("b", port="other", app="edge"),
            pod("a", app="edge"),
            pod("late", ready="False", app="edge"),
            pod("x", app="x"),
        ]
        named = "the server in pod edge/"
        found = sidecar_servers(lambda: pods, lambda: [scope])
        assert found == Servers((Server(f"{named}a", "http://10.0.0.1:9102"), Server(f"{named}b")))
        assert sidecar_servers(list, lambda: [scope]).trouble == "no proxy is ready"


class TestBehind:
    def test_nobody_is_if_all_say_the_generation(self) -> None:
        answers = [(Server(name), Said({NAME: "0" * 13, "llm/other": "1" * 13})) for name in "ab"]
        assert behind(NAME, "0" * 13, answers) == ""

    def test_who_does_not_is_named_with_what_was_heard(self) -> None:
        answers = [
            (Server("a"), Said({}, "does not answer: refused")),
            (Server("b"), Said({})),
            (Server("c"), Said({NAME: "1" * 13})),
            (Server("d"), Said({NAME: "0" * 13})),
            (Server("e"), Said({})),
        ]
        assert behind(NAME, "0" * 13, answers) == (
            "a does not answer: refused; b does not accept it, and its log says why; c serves generation "
            f"{'1' * 13} of it, not {'0' * 13}, and 1 more"
        )

    @pytest.mark.parametrize("page", [None, [], {}, {"experiments": 3}])
    def test_a_page_of_another_kind_says_nothing(self, page: Any) -> None:
        assert said_of(page).failure == "does not say what it serves"


class Pages:
    """A server's page, which a test changes."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.experiments: dict[str, str] = {}
        self.address = ""

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"generation": None, "experiments": self.experiments}, status=self.status)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/generation", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.address = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        running.put(EXPERIMENTS, "llm", "chat", spec=spec(10))
        yield running


class Asked:
    """A leader that knows one Experiment, and one server."""

    def __init__(self, api: FakeApi, pages: Pages) -> None:
        self.servers = Servers()
        self.pages = pages
        self.stores: Stores = stores(api.client(), OURS, settle=timedelta(seconds=5), tell=lambda _: None)
        self.serving = ClusterServing(
            self.stores.experiments,
            self.stores.documents,
            self.stores.lease,
            lambda: self.servers,
            timedelta(seconds=5),
        )
        assert self.stores.lease.acquire()
        self.servers = Servers((Server("server pod a", pages.address),))

    @property
    def generation(self) -> str:
        (thing,) = self.stores.experiments.all().values()
        return generation_of(self.stores.documents.read().document.experiment(NAME), thing)

    def served(self) -> Served:
        return self.serving.of(self.stores.documents.read().document.experiment(NAME))


def _ask(api: FakeApi, test: Callable[[Asked, aiohttp.ClientSession], Any]) -> None:
    async def main() -> None:
        pages = Pages()
        async with pages.running(), aiohttp.ClientSession() as session:
            asked = await asyncio.to_thread(Asked, api, pages)
            try:
                await test(asked, session)
            finally:
                await asyncio.to_thread(asked.stores.lease.release)

    asyncio.run(main())


def test_it_is_served_since_every_server_said_so_and_then_nobody_is_asked_again(api: FakeApi) -> None:
    async def test(asked: Asked, session: aiohttp.ClientSession) -> None:
        assert asked.served().behind == "the servers have not been asked yet"
        asked.pages.experiments = {NAME: "0" * 13}
        await asked.serving.look(session)
        assert asked.served().behind.startswith(f"server pod a serves generation {'0' * 13} of it, not ")
        before = datetime.now(UTC)
        asked.pages.experiments = {NAME: asked.generation}
        await asked.serving.look(session)
        served, asks = asked.served(), asked.pages.asked
        assert not served.behind
        assert served.since is not None
        assert served.since >= before
        asked.pages.experiments = {}
        await asked.serving.look(session)
        assert (asked.served(), asked.pages.asked) == (served, asks)

        api.put(EXPERIMENTS, "llm", "chat", spec=spec(50))
        await asyncio.to_thread(asked.stores.experiments.list_now)
        assert asked.served().behind == "the servers have not been asked yet", "of other weights"
        await asked.serving.look(session)
        assert asked.served().behind == "server pod a does not accept it, and its log says why"

    _ask(api, test)


def test_a_server_that_cannot_be_asked_is_named(api: FakeApi) -> None:
    async def test(asked: Asked, session: aiohttp.ClientSession) -> None:
        asked.pages.status = 503
        await asked.serving.look(session)
        assert asked.served().behind == "server pod a serves nothing yet"
        asked.pages.status = 404
        await asked.serving.look(session)
        assert asked.served().behind == "server pod a answers /generation with status 404"
        asked.servers = Servers((Server("server pod b"),))
        await asked.serving.look(session)
        assert asked.served().behind.startswith("server pod b has no port with a name")
        asked.servers = Servers(trouble="the Service abmesh/x has no server that is ready")
        await asked.serving.look(session)
        assert asked.served().behind == "the Service abmesh/x has no server that is ready"
        asked.servers = Servers((Server("server pod c", "http://127.0.0.1:1"),))
        await asked.serving.look(session)
        assert asked.served().behind.startswith("server pod c does not answer: ")

    _ask(api, test)


def test_who_does_not_lead_asks_nobody(api: FakeApi) -> None:
    async def test(asked: Asked, session: aiohttp.ClientSession) -> None:
        await asyncio.to_thread(asked.stores.lease.release)
        await asked.serving.look(session)
        assert asked.pages.asked == 0
        assert asked.served().behind

    _ask(api, test)


def test_in_the_native_lane_the_filters_have_to_be_applied_and_to_have_reached_the_gateways(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec={**spec(10), "lane": "native"})
    applied = datetime(2026, 12, 1, tzinfo=UTC)
    said = [Served("the EnvoyFilters with its weights are not applied yet"), Served(since=applied)]

    class Filters:
        def carried(self, experiment: Any) -> Served:
            assert experiment.lane == "native"
            return said[0]

    async def test(asked: Asked, session: aiohttp.ClientSession) -> None:
        assert asked.served() == Served(), "nobody keeps filters"
        asked.serving.filters = Filters()
        await asked.serving.look(session)
        assert asked.served().behind == said[0].behind
        said.pop(0)
        assert asked.served() == Served(since=applied + timedelta(seconds=5))
        assert asked.pages.asked == 0

    _ask(api, test)


def test_asking_goes_on_after_trouble_and_ends_when_told(api: FakeApi) -> None:
    async def test(asked: Asked, _session: aiohttp.ClientSession) -> None:
        asked.pages.experiments = {NAME: asked.generation}
        seen = threading.Event()
        running = asyncio.create_task(asked.serving.run())
        for _ in range(200):
            if not asked.served().behind:
                seen.set()
                break
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert seen.is_set()

    _ask(api, test)
