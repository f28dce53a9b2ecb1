"""A secret salt that changes while an Experiment runs: weights are held and people are told; nobody is reshuffled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from abmesh.kube import spec as specs
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld, spec
from tests.controller.support import serve_and_tick

FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture
def salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(specs, "SECRETS_FOLDER", str(tmp_path))
    (tmp_path / "salt").write_text(FIRST)
    return tmp_path / "salt"


@pytest.fixture
def world(api: FakeApi, salt: Path) -> Iterator[ClusterWorld]:
    assert salt.exists()
    found = ClusterWorld(api.client, body={**spec(), "saltFile": "salt"})
    try:
        yield found
    finally:
        found.close()


def _stepped(world: ClusterWorld) -> None:
    for _ in range(200):
        if world.weight() == 1000:
            return
        serve_and_tick(world, 1)
    raise AssertionError("no first step")


def test_the_status_keeps_a_digest_and_nothing_of_the_salt(world: ClusterWorld) -> None:
    _stepped(world)
    digest = world.status()["saltDigest"]
    assert len(digest) == 32
    assert FIRST not in str(world.thing())
    world.restart()
    serve_and_tick(world, 2)
    assert world.status()["saltDigest"] == digest
    assert world.condition("Accepted")["status"] == "True"


def test_another_salt_holds_the_weights_with_the_reason_until_the_former_is_back(
    world: ClusterWorld, salt: Path
) -> None:
    _stepped(world)
    before = world.status()
    salt.write_text(SECOND)
    for _ in range(30):
        world.tick()
    status = world.status()
    assert {name: status[name] for name in ("weights", "ranges", "saltDigest")} == {
        name: before[name] for name in ("weights", "ranges", "saltDigest")
    }
    for kind in ("Accepted", "Healthy", "Ready"):
        found = world.condition(kind)
        assert (found["status"], found["reason"]) == ("False", "SaltChanged"), kind
        assert "every user would be assigned anew; put the former salt back" in found["message"]
    assert "another salt" in status["reason"]
    assert SECOND not in str(status)

    salt.write_text(FIRST)
    serve_and_tick(world, 3)
    assert world.condition("Accepted")["status"] == "True"
    assert world.condition("Healthy")["reason"] != "SaltChanged"
    assert world.weight() == 1000


def test_a_salt_that_cannot_be_read_is_no_other_salt(world: ClusterWorld, salt: Path) -> None:
    _stepped(world)
    salt.unlink()
    world.tick()
    assert world.condition("Accepted")["reason"] == "SaltUnreadable"
    assert "no such file" in world.condition("Accepted")["message"]
    assert world.condition("Healthy")["reason"] != "SaltUnreadable"
    assert world.status()["weights"] == {"model-a": 90, "model-b": 10}


def test_a_public_salt_in_its_place_is_a_change_that_somebody_made(world: ClusterWorld) -> None:
    _stepped(world)
    world.edit({"saltFile": None, "salt": "mine"})
    serve_and_tick(world, 2)
    assert world.condition("Accepted")["status"] == "True"
    assert "saltDigest" not in world.status()


@pytest.mark.parametrize(("text", "goes_on"), [(FIRST, True), (SECOND, False)])
def test_one_that_is_applied_again_goes_on_only_with_the_same_salt(
    world: ClusterWorld, salt: Path, text: str, goes_on: bool
) -> None:
    _stepped(world)
    serve_and_tick(world, 1)
    world.reapply()
    salt.write_text(text)
    world.tick(0.1)
    assert bool(world.condition("Restored")) is goes_on
    assert world.condition("Accepted")["status"] == "True"
