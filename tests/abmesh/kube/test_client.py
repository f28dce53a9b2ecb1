from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from abmesh.kube.client import Client, Listed
from abmesh.kube.connection import Connection
from abmesh.kube.errors import AlreadyExists, Missing, Refused, Stale, Unauthorized, Unreachable
from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS
from tests.abmesh.kube.fake_api import FakeApi


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def names(listed: Listed) -> list[str]:
    return [item["metadata"]["name"] for item in listed.items]


def test_an_object_is_created_read_replaced_and_deleted(api: FakeApi) -> None:
    client = api.client()
    created = client.create(CONFIG_MAPS, "abmesh", config_map("a", x="1"))
    assert client.get(CONFIG_MAPS, "abmesh", "a") == created
    replaced = client.replace(CONFIG_MAPS, "abmesh", "a", {**created, "data": {"x": "2"}})
    assert replaced["data"] == {"x": "2"}
    client.delete(CONFIG_MAPS, "abmesh", "a")
    with pytest.raises(Missing):
        client.get(CONFIG_MAPS, "abmesh", "a")


def test_an_object_is_created_once(api: FakeApi) -> None:
    api.client().create(CONFIG_MAPS, "abmesh", config_map("a"))
    with pytest.raises(AlreadyExists):
        api.client().create(CONFIG_MAPS, "abmesh", config_map("a"))


def test_a_write_based_on_an_older_version_is_stale(api: FakeApi) -> None:
    client = api.client()
    created = client.create(CONFIG_MAPS, "abmesh", config_map("a", x="1"))
    client.replace(CONFIG_MAPS, "abmesh", "a", {**created, "data": {"x": "2"}})
    with pytest.raises(Stale):
        client.replace(CONFIG_MAPS, "abmesh", "a", {**created, "data": {"x": "3"}})
    old = created["metadata"]["resourceVersion"]
    with pytest.raises(Stale):
        client.merge_patch(CONFIG_MAPS, "abmesh", "a", {"metadata": {"resourceVersion": old}, "data": {"x": "4"}})
    assert client.get(CONFIG_MAPS, "abmesh", "a")["data"] == {"x": "2"}


def test_a_status_is_patched_apart_from_the_spec(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec={"a": 1})
    body = {"spec": {"a": 2}, "status": {"phase": "Progressing"}}
    patched = api.client().merge_patch(EXPERIMENTS, "llm", "chat", body, subresource="status")
    assert (patched["spec"], patched["status"]) == ({"a": 1}, {"phase": "Progressing"})


def test_a_json_patch_whose_test_fails_is_refused(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec={"a": 1})
    change = {"op": "replace", "path": "/spec/a", "value": 2}
    with pytest.raises(Refused):
        api.client().json_patch(EXPERIMENTS, "llm", "chat", [{"op": "test", "path": "/spec/a", "value": 9}, change])
    found = api.client().json_patch(EXPERIMENTS, "llm", "chat", [{"op": "test", "path": "/spec/a", "value": 1}, change])
    assert found["spec"] == {"a": 2}


def test_objects_are_deleted_by_their_uid(api: FakeApi) -> None:
    uid = api.put(CONFIG_MAPS, "abmesh", "a")["metadata"]["uid"]
    with pytest.raises(Stale):
        api.client().delete(CONFIG_MAPS, "abmesh", "a", uid="another")
    api.client().delete(CONFIG_MAPS, "abmesh", "a", uid=uid)


def test_every_write_is_checked_strictly_and_says_its_form(api: FakeApi) -> None:
    client = api.client()
    client.create(CONFIG_MAPS, "abmesh", config_map("a"))
    client.replace(CONFIG_MAPS, "abmesh", "a", config_map("a", x="1"))
    client.merge_patch(CONFIG_MAPS, "abmesh", "a", {"data": {"x": "2"}})
    client.json_patch(CONFIG_MAPS, "abmesh", "a", [{"op": "replace", "path": "/data/x", "value": "3"}])
    client.apply(CONFIG_MAPS, "abmesh", "a", config_map("a", x="4"), manager="me", force=True)
    assert all(seen.query["fieldValidation"] == "Strict" for seen in api.seen)
    assert [seen.headers["content-type"].partition("/")[2] for seen in api.seen] == [
        *("json", "json", "merge-patch+json", "json-patch+json", "apply-patch+yaml")
    ]
    assert (api.seen[-1].query["fieldManager"], api.seen[-1].query["force"]) == ("me", "true")


def test_a_list_has_complete_objects_and_the_version_to_watch_from(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "a", metadata={"labels": {"team": "x"}})
    last = api.put(EXPERIMENTS, "web", "b")
    every = api.client().list(EXPERIMENTS)
    assert [(item["kind"], item["metadata"]["name"]) for item in every.items] == [
        ("Experiment", "a"),
        ("Experiment", "b"),
    ]
    assert every.version == last["metadata"]["resourceVersion"]
    assert [item["metadata"]["name"] for item in api.client().list(EXPERIMENTS, "web").items] == ["b"]
    assert [item["metadata"]["name"] for item in api.client().list(EXPERIMENTS, labels="team=x").items] == ["a"]
    assert [item["metadata"]["name"] for item in api.client().list(EXPERIMENTS, fields="metadata.name=b").items] == [
        "b"
    ]


def test_a_token_is_taken_anew_for_every_request(api: FakeApi) -> None:
    client = api.client()
    api.token = api.sends = "one"
    client.list(EXPERIMENTS)
    api.token = "two"
    with pytest.raises(Unauthorized):
        client.list(EXPERIMENTS)
    api.sends = "two"
    client.list(EXPERIMENTS)


def test_an_api_server_that_does_not_answer_is_unreachable_in_time(api: FakeApi) -> None:
    api.freeze()
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="no answer in time"):
        api.client(timeout=0.3).list(EXPERIMENTS)
    assert time.monotonic() - begun < 3
    api.thaw()


def test_nobody_listening_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="Connection refused"):
        Client(Connection(f"http://127.0.0.1:{port}", None, list, "default")).list(EXPERIMENTS)


def answering(sock: socket.socket, answers: list[bytes], got: list[bytes]) -> None:
    """Answer one request a connection, and close it; an empty answer closes without a word."""
    for answer in answers:
        peer, _ = sock.accept()
        with peer:
            got.append(peer.recv(65536).partition(b"\r\n")[0])
            peer.sendall(answer)


OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("ask", "requests"),
    [
        (lambda client: client.get(CONFIG_MAPS, "abmesh", "a"), 2),
        (lambda client: client.merge_patch(CONFIG_MAPS, "abmesh", "a", {}), 1),
        (lambda client: client.create(CONFIG_MAPS, "abmesh", config_map("a")), 1),
    ],
)
def test_only_a_read_is_repeated_when_its_connection_breaks(ask: Callable[[Client], object], requests: int) -> None:
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=answering, args=(sock, [b"", OK][:requests], got))
        thread.start()
        client = Client(Connection(f"http://127.0.0.1:{sock.getsockname()[1]}", None, list, "default"))
        if requests == 2:
            ask(client)
        else:
            with pytest.raises(Unreachable):
                ask(client)
        thread.join()
    assert len(got) == requests


def test_a_redirect_is_not_followed_with_the_token() -> None:
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        away = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        thread = threading.Thread(target=answering, args=(sock, [away], got))
        thread.start()
        with pytest.raises(Unreachable):
            Client(Connection(f"http://127.0.0.1:{sock.getsockname()[1]}", None, list, "default")).list(EXPERIMENTS)
        thread.join()
