"""The controller's stores on a real API server: fencing, GitOps, people's edits, and an API server that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.lease import Times
from controller.cluster.status import epoch_of
from controller.records import Phase
from tests.cluster.cluster import Cluster
from tests.cluster.editing import weights_editor
from tests.cluster.places import Place
from tests.cluster.waiting import wait_for
from tests.controller.cluster.support import ClusterWorld, manifest, serve_until, spec
from tests.controller.support import serve_and_tick

ALL = [("advance", 0, 1000), ("advance", 1000, 5000), ("advance", 5000, 10_000)]
WRITES = 200


@pytest.fixture
def place(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place.made(cluster, monkeypatch)


@pytest.fixture
def world(place: Place) -> Iterator[ClusterWorld]:
    found = place.world(times=Times(duration=60, deadline=50, every=5))
    try:
        yield found
    finally:
        found.close()


def _promoted(world: ClusterWorld) -> None:
    for _ in range(100):
        if world.weight() == 10_000 and world.phase() is Phase.PROMOTED:
            return
        serve_and_tick(world, 1)
    raise AssertionError(f"{world.phase()} at {world.weight()}")


def test_a_leader_that_was_frozen_longer_than_its_lease_writes_nothing(place: Place) -> None:
    client, experiments = place.client(), 5
    for number in range(experiments):
        client.create(EXPERIMENTS, place.namespace, manifest(place.namespace, f"chat-{number}", spec(10)))
    command = [sys.executable, "-m", "tests.cluster.old_leader", place.own, place.namespace, str(experiments)]
    old = subprocess.Popen([*command, str(WRITES)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert old.stdout is not None
        assert old.stdout.readline() == "READY\n"
        wait_for(lambda: _stopped(old.pid), "the old leader to freeze")
        new = ClusterWorld(place.client, place.namespace, place.own, bare="another")
        wait_for(lambda: new.stores.lease.held or new.stores.lease.acquire(), "the Lease to run out")
        new.watch()
        new.stores.attendant.before(new.now)
        new.tick()
        statuses = {name: _status(place, name) for name in (f"chat-{number}" for number in range(experiments))}
        old.send_signal(18)  # SIGCONT
        told: dict[str, int] = json.loads(old.stdout.readline())
    finally:
        old.kill()
        old.communicate()
    assert {name: _status(place, name) for name in statuses} == statuses
    assert all(epoch_of({"status": status}) == new.stores.lease.epoch for status in statuses.values())
    new.close()
    assert told == {
        "committed NotLeadingError": WRITES,
        "with the version that it saw Stale": WRITES,
        "without a version Refused": WRITES,
        "with the newest version Refused": WRITES,
    }


def test_the_same_spec_applied_again_and_again_during_a_ramp_is_no_event(place: Place, world: ClusterWorld) -> None:
    """200 times server-side, as Argo CD and Flux do it, and 60 times by kubectl's own comparison."""
    place.apply(world.body)
    world.tick()
    versions, client = set(), place.client()
    stop, troubles = threading.Event(), []

    def ramp() -> None:
        try:
            while not stop.is_set():
                serve_and_tick(world, 1)
        except Exception as error:  # noqa: BLE001 - told below
            troubles.append(repr(error))

    body = manifest(place.namespace, "chat", world.body)
    client.apply(EXPERIMENTS, place.namespace, "chat", body, manager="gitops", force=True)
    generation = world.thing()["metadata"]["generation"]
    thread = threading.Thread(target=ramp)
    thread.start()
    said: list[str] = []
    try:
        for _ in range(200):
            found = client.apply(EXPERIMENTS, place.namespace, "chat", body, manager="gitops")
            versions.add(found["metadata"]["generation"])
        said += [place.apply(world.body) for _ in range(60)]
    finally:
        stop.set()
        thread.join()
    assert troubles == []
    assert versions == {generation}
    assert world.thing()["metadata"]["generation"] == generation
    assert {line.split()[-1] for line in said} == {"unchanged"}
    _promoted(world)
    assert world.moves() == ALL


@pytest.mark.parametrize("controller_runs", [True, False])
def test_an_edit_with_kubectl_turns_the_rollout_manual(
    place: Place, world: ClusterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controller_runs: bool
) -> None:
    serve_until(world, 1000)
    if not controller_runs:
        world.stores.lease.release()
    monkeypatch.setenv("KUBE_EDITOR", weights_editor(tmp_path, 70, 30))
    assert "edited" in place.plane.kubectl("edit", "experiment", "chat", namespace=place.namespace)
    assert world.weight() == 3000  # served at once, whoever leads
    if not controller_runs:
        world.start()
    serve_and_tick(world, 5)
    assert (world.weight(), world.phase()) == (3000, Phase.MANUAL)
    managers = {item["manager"] for item in world.thing()["metadata"]["managedFields"]}
    assert "kubectl-edit" in managers  # who it was can be seen


def test_an_api_server_killed_in_the_middle_of_each_commit_loses_and_repeats_nothing(
    place: Place, world: ClusterWorld
) -> None:
    """It dies a little later after each status patch was sent, so before, during and after it was carried out."""
    server, kills = place.plane.api_server, 0
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        before = world.weight()
        if before == 10_000:
            break
        kills += _kill_at_next_commit(world, server, delay)
        server.start()
        wait_for(lambda: _answers(place), "the API server", 60)
        world.restart()
    _promoted(world)
    assert kills >= 3
    assert world.moves() == ALL
    entries = world.journal()
    assert len({entry.id for entry in entries}) == len(entries)
    kept = world.stores.evidence.read(world.name)
    assert kept is not None
    assert [stage.weights["model-b"] for stage in kept.history.past] == [1000, 5000]


def test_an_experiment_deleted_and_applied_again_while_promoted_keeps_its_users(
    place: Place, world: ClusterWorld
) -> None:
    _promoted(world)
    ranges = world.status()["ranges"]
    place.plane.kubectl("delete", "experiment", "chat", namespace=place.namespace)
    world.tick(0.1)
    place.apply(world.body)
    world.tick(0.1)
    assert (world.weight(), world.phase(), world.status()["ranges"]) == (10_000, Phase.PROMOTED, ranges)
    assert world.condition("Restored")["status"] == "True"
    assert "Restored" in place.plane.kubectl("events", "--for", "experiment/chat", namespace=place.namespace)


def _kill_at_next_commit(world: ClusterWorld, server: Any, delay: float) -> int:
    """Tick until a change is committed; kill the API server so many seconds after its patch was sent."""
    transitions, killed = world.stores.transitions, threading.Event()
    client = transitions._client

    def kill() -> None:
        time.sleep(delay)
        server.kill()
        killed.set()

    class Deadly:
        def merge_patch(self, *args: Any, **options: Any) -> Any:
            if args[3]["status"].get("lastDecision") is None:
                return client.merge_patch(*args, **options)
            thread = threading.Thread(target=kill)
            thread.start()
            try:
                return client.merge_patch(*args, **options)
            finally:
                thread.join()

    transitions._client = Deadly()  # type: ignore[assignment]  # the one method that is used
    for _ in range(100):
        try:
            serve_and_tick(world, 1)
        except Exception:  # noqa: BLE001 - the API server is gone, as it should be
            assert killed.is_set()
        if killed.is_set():
            return 1
    raise AssertionError("nothing was committed")


def _answers(place: Place) -> bool:
    try:
        place.client(2).list(EXPERIMENTS)
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer
        return False
    return True


def _status(place: Place, name: str) -> dict[str, Any]:
    found = place.client().get(EXPERIMENTS, place.namespace, name)["status"]
    assert isinstance(found, dict)
    return found


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
