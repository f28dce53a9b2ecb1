"""GitOps and people's edits of a ramp by the shipped chart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abmesh.kube.resources import EXPERIMENTS
from tests.cluster.cluster import Cluster
from tests.cluster.editing import weights_editor
from tests.cluster.history import History
from tests.cluster.plane.audit import Request, requests
from tests.cluster.shipped_world import Shipped, shipped
from tests.cluster.trial import CHAT, Rollout, until

BY_SERVER, BY_KUBECTL = 200, 60


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def rollout(world: Shipped) -> Rollout:
    """A ramp that goes on from test to test."""
    found = Rollout(world)
    found.begin()
    return found


async def test_the_same_spec_applied_again_and_again_is_no_event(world: Shipped, rollout: Rollout) -> None:
    """200 times server-side, as Argo CD and Flux do it, and 60 times by kubectl's own comparison."""
    body, space = rollout.bodies()[0], world.namespace

    def by_server() -> dict[str, Any]:
        return rollout.people.apply(EXPERIMENTS, space, CHAT, body, manager="gitops", force=True)

    def by_kubectl() -> str:
        return world.cluster.plane.kubectl("apply", "--filename", "-", given=json.dumps(body))

    by_server()
    by_kubectl()  # notes what was applied last
    before = _whole(rollout)
    async with rollout.through("the same spec applied again and again"):
        await until(lambda: len(_steps(rollout)) >= 3, "some steps without it")
        usual = _steps(rollout)
        versions = [await asyncio.to_thread(by_server) for _ in range(BY_SERVER)]
        said = [await asyncio.to_thread(by_kubectl) for _ in range(BY_KUBECTL)]
    after = _whole(rollout)
    assert {line.split()[-1] for line in said} == {"unchanged"}
    assert {each["metadata"]["generation"] for each in [*versions, after]} == {before["metadata"]["generation"]}
    assert _others(after) == _others(before), "nothing was written"

    asked = _patches(world)
    assert not [each for each in asked if each.code == 409], "no conflict"
    writes = _writes_by_step(rollout, asked)
    without, with_it = writes[: len(usual) - 1], writes[len(usual) - 1 :]
    print(f"status patches for each step without the applies {without}, and with them {with_it}")
    assert max(with_it) <= max(without) + 3, "no write of ours for it"
    reasons = {entry.reason for entry in rollout.journal()}
    assert {each["note"] for each in _events(world)} <= reasons, "no event but for what was decided"


@pytest.mark.parametrize(("controllers", "weight"), [("running", 30), ("scaled to 0", 40), ("killed", 50)])
async def test_an_edit_with_kubectl_turns_the_ramp_manual(
    world: Shipped,
    rollout: Rollout,
    controllers: str,
    weight: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane, home = world.cluster.plane, world.release.namespace
    if world.status(CHAT).get("phase") == "Manual":
        world.command("resume", CHAT, "--yes")
    await until(lambda: world.status(CHAT).get("phase") == "Progressing", "the ramp to go on")
    if controllers == "scaled to 0":
        await asyncio.to_thread(world.scale, 0)
    monkeypatch.setenv("KUBE_EDITOR", weights_editor(tmp_path, 100 - weight, weight))
    history = History(world, CHAT)
    async with history.followed():
        await until(lambda: history.moments, "the Experiment to be seen")
        if controllers == "killed":
            for pod in world.pods("controller"):
                os.kill(world.cluster.node.process(home, pod["metadata"]["name"], "controller"), signal.SIGKILL)
        said = await asyncio.to_thread(plane.kubectl, "edit", "experiment", CHAT, namespace=world.namespace)
        assert "edited" in said
        await until(lambda: history.moments[-1].experiment.weights["model-b"] == 100 * weight, "the edit to be seen")
    if controllers == "scaled to 0":
        assert world.status(CHAT)["phase"] == "Progressing", "nobody is there to say otherwise"
        await asyncio.to_thread(world.scale, 2)
    await until(lambda: world.status(CHAT)["phase"] == "Manual", "the rollout to be manual")
    status = world.status(CHAT)
    written = {"model-a": 100 - weight, "model-b": weight}
    assert (status["weights"], status["lastSeenSpecWeights"]) == (written, written)
    assert "kubectl-edit" in {each["manager"] for each in _others(_whole(rollout))}
    print(f"controllers {controllers}: edited, at the last server after {history.spread()[-1]:.2f} s, and manual")


def _steps(rollout: Rollout) -> list[float]:
    """When the steps of the ramp were taken, so far, on the wall's clock."""
    return [entry.at.timestamp() for entry in rollout.journal() if entry.weights_before != entry.weights_after]


def _whole(rollout: Rollout) -> dict[str, Any]:
    """The ramp's Experiment with what kubectl leaves out."""
    return rollout.people.get(EXPERIMENTS, rollout.world.namespace, CHAT)


def _others(thing: dict[str, Any]) -> list[dict[str, Any]]:
    """Who wrote what, and when, but for us."""
    return [each for each in thing["metadata"]["managedFields"] if each.get("subresource") != "status"]


def _patches(world: Shipped) -> list[Request]:
    """The controllers' writes of the ramp's status."""
    asked = requests(world.cluster.plane.files.audit_log, world.release.account("controller"))
    return [each for each in asked if (each.verb, each.resource, each.name) == ("patch", "experiments/status", CHAT)]


def _writes_by_step(rollout: Rollout, asked: list[Request]) -> list[int]:
    """How many of the writes there were from each step to the next."""
    steps = _steps(rollout)
    found = Counter(sum(step <= each.when for step in steps) for each in asked)
    return [found[number] for number in range(1, len(steps))]


def _events(world: Shipped) -> list[dict[str, Any]]:
    """Those of the ramp."""
    found: list[dict[str, Any]] = world.cluster.plane.read("events.events.k8s.io", "", world.namespace)["items"]
    return [each for each in found if each["regarding"].get("name") == CHAT]
