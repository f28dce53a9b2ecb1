"""What is followed stays, whatever happens to a real API server, and is right again soon after it is back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from abmesh.kube import watching
from abmesh.kube.client import Client
from abmesh.kube.connection import Connection, connect
from abmesh.kube.errors import AlreadyExists, Forbidden, Missing, Refused, Stale
from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS
from abmesh.kube.watching import Listing, follow
from tests.cluster.cluster import Cluster
from tests.cluster.experiments import acting_as, allow, define, fresh_namespace, put, undefine

LIMIT = 60.0


@pytest.fixture
def connection(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Connection:
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    return connect()


@pytest.fixture
def client(connection: Connection) -> Iterator[Client]:
    found = Client(connection)
    define(found)
    yield found
    found.close()


@pytest.fixture
def own(client: Client) -> Iterator[str]:
    with fresh_namespace(client) as name:
        yield name


class Followed:
    """What a follower has been told, and when."""

    def __init__(self) -> None:
        self.listings: list[Listing] = []

    def until(self, condition: Callable[[Listing], bool], seconds: float = LIMIT) -> float:
        """Wait for a condition on the last listing; returns the seconds that it took."""
        begun = time.monotonic()
        while not self.listings or not condition(self.listings[-1]):
            if time.monotonic() - begun > seconds:
                last = self.listings[-1] if self.listings else None
                raise AssertionError(f"not in {seconds} s; the last: {last and (names(last), last.at, last.trouble)}")
            time.sleep(0.005)
        return time.monotonic() - begun

    def names(self, *expected: str, seconds: float = LIMIT) -> float:
        return self.until(lambda it: names(it) == sorted(expected) and not it.trouble, seconds)

    def sizes(self) -> set[int]:
        """Numbers of objects in all that was told, but for what came before the first list."""
        return {len(listing.items) for listing in self.listings if listing.at}


def names(listing: Listing) -> list[str]:
    return sorted(name for _, name in listing.items)


@contextlib.contextmanager
def following(connection: Connection, namespace: str) -> Iterator[Followed]:
    """Follow in a thread of its own: the test's thread starts programs, which end with the thread that started them."""
    followed, loop = Followed(), asyncio.new_event_loop()

    async def run() -> None:
        async for listing in follow(connection, EXPERIMENTS, namespace):
            followed.listings.append(listing)

    task = loop.create_task(run())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    try:
        yield followed
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def shorter_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch goes on to its end when its right is withdrawn; do not wait 20 seconds for that."""
    monkeypatch.setattr(watching, "_PIECE_SECONDS", 2)


def test_changes_arrive_at_once(client: Client, connection: Connection, own: str) -> None:
    put(client, own, "a")
    with following(connection, own) as followed:
        followed.names("a")
        took = []
        for weight in range(20):
            put(client, own, "a", weights={"model-a": 100 - weight, "model-b": weight})
            written = {"model-a": 100 - weight, "model-b": weight}
            took.append(followed.until(lambda it, written=written: weights(it, own) == written))  # type: ignore[misc]
        print(f"change to follower: median {sorted(took)[10]:.3f} s, worst {max(took):.3f} s")
        assert max(took) < 1
        client.delete(EXPERIMENTS, own, "a")
        print(f"deletion to follower: {followed.names():.3f} s")


def weights(listing: Listing, namespace: str) -> dict[str, float]:
    return {each["name"]: each["weight"] for each in listing.items[namespace, "a"]["spec"]["variants"]}


def test_a_killed_api_server(cluster: Cluster, client: Client, connection: Connection, own: str) -> None:
    put(client, own, "a")
    with following(connection, own) as followed:
        followed.names("a")
        cluster.plane.api_server.kill()
        noticed = followed.until(lambda it: bool(it.trouble), 5)
        cluster.plane.api_server.start()
        define(client)
        put(client, own, "b")
        right = followed.names("a", "b")
        print(f"killed: noticed after {noticed:.2f} s, right {right:.2f} s after the change")
        assert right < 5
        assert 0 not in followed.sizes()


def test_a_frozen_api_server(cluster: Cluster, client: Client, connection: Connection, own: str) -> None:
    put(client, own, "a")
    with following(connection, own) as followed:
        followed.names("a")
        begun = time.monotonic()
        cluster.plane.api_server.freeze()
        try:
            noticed = followed.until(lambda it: bool(it.trouble), 27)
            time.sleep(max(0.0, 30 - (time.monotonic() - begun)))
        finally:
            cluster.plane.api_server.thaw()
        right = followed.names("a", seconds=10)
        put(client, own, "b")
        changed = followed.names("a", "b", seconds=10)
        print(f"frozen: noticed after {noticed:.1f} s, followed {right:.2f} s after, changed {changed:.2f} s")
        assert followed.sizes() == {1, 2}


def test_a_restarted_api_server_and_a_compacted_etcd(
    cluster: Cluster, client: Client, connection: Connection, own: str
) -> None:
    put(client, own, "a")
    with following(connection, own) as followed:
        followed.names("a")
        cluster.plane.api_server.kill()
        cluster.plane.compact_etcd()
        cluster.plane.api_server.start()
        define(client)
        put(client, own, "b")
        assert followed.names("a", "b") < 5
        assert 0 not in followed.sizes()


def test_a_right_withdrawn_and_given_back(
    client: Client, connection: Connection, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter_pieces(monkeypatch)
    allow(client, own, "server", "get", "list", "watch")
    put(client, own, "a")
    with following(acting_as(connection, "server"), own) as followed:
        followed.names("a")
        allow(client, own, "server")
        noticed = followed.until(lambda it: bool(it.trouble))
        trouble = followed.listings[-1].trouble
        assert trouble.startswith(f"may not watch experiments.abmesh.dev in namespace {own}: ")
        put(client, own, "b")
        allow(client, own, "server", "get", "list", "watch")
        right = followed.names("a", "b")
        print(f"right withdrawn: noticed after {noticed:.1f} s; given back: right after {right:.2f} s")
        assert right < 5
        assert followed.sizes() == {1, 2}


@pytest.mark.parametrize("objects", [1, 3, 60])
def test_a_deleted_definition_takes_nothing_away(
    client: Client, connection: Connection, own: str, objects: int
) -> None:
    for number in range(objects):
        put(client, own, f"e{number}")
    with following(connection, own) as followed:
        followed.names(*(f"e{number}" for number in range(objects)))
        undefine(client)
        noticed = followed.until(lambda it: bool(it.trouble))
        time.sleep(3)  # long enough for whatever would take it away
        assert followed.sizes() == {objects}
        define(client)
        put(client, own, "new")
        right = followed.names("new")
        print(f"{objects} objects, definition deleted: noticed {noticed:.2f} s later, right {right:.2f} s after")


def test_a_namespace_that_goes_takes_its_objects_along(client: Client, connection: Connection) -> None:
    with fresh_namespace(client) as name:
        put(client, name, "a")
        put(client, name, "b")
        with following(connection, name) as followed:
            followed.names("a", "b")
            client.delete(EXPERIMENTS, name, "a")
            assert followed.names("b") < 2


def test_writes_say_what_was_wrong_with_them(client: Client, own: str) -> None:
    first = put(client, own, "a")
    with pytest.raises(AlreadyExists):
        client.create(EXPERIMENTS, own, {**first, "metadata": {"name": "a"}})
    version = first["metadata"]["resourceVersion"]
    status = {"metadata": {"resourceVersion": version}, "status": {"phase": "Pending"}}
    client.merge_patch(EXPERIMENTS, own, "a", status, subresource="status")
    with pytest.raises(Stale):
        client.merge_patch(EXPERIMENTS, own, "a", status, subresource="status")
    with pytest.raises(Refused, match="weights must sum to exactly 100"):
        put(client, own, "a", weights={"model-a": 90, "model-b": 20})
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    with pytest.raises(Refused, match="dataa"):
        client.create(CONFIG_MAPS, own, {**body, "dataa": {}})
    with pytest.raises(Refused, match="dataa"):
        client.apply(CONFIG_MAPS, own, "a", {**body, "dataa": {}})
    client.apply(CONFIG_MAPS, own, "a", {**body, "data": {"x": "1"}}, manager="one")
    with pytest.raises(Stale, match='conflict with "one"'):
        client.apply(CONFIG_MAPS, own, "a", {**body, "data": {"x": "2"}}, manager="two")
    with pytest.raises(Stale):
        client.delete(CONFIG_MAPS, own, "a", uid="another")
    with pytest.raises(Missing):
        client.get(CONFIG_MAPS, own, "nowhere")


def test_a_missing_right_is_named(client: Client, connection: Connection, own: str) -> None:
    nobody = Client(acting_as(connection, "nobody"))
    with pytest.raises(Forbidden, match=f"may not list experiments.abmesh.dev in namespace {own}: .*nobody") as found:
        nobody.list(EXPERIMENTS, own)
    assert (found.value.attempt.verb, found.value.attempt.resource) == ("list", "experiments.abmesh.dev")
    nobody.close()
