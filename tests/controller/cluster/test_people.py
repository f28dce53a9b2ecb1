"""What people write into an Experiment, and what they read of it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from abmesh.kube.resources import CONFIG_MAPS, EVENTS, EXPERIMENTS
from controller.cluster.names import REQUEST
from controller.records import Cause, Phase
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld, manifest, spec
from tests.controller.support import serve_and_tick


def _to(world: ClusterWorld, weight: int) -> None:
    for _ in range(200):
        if world.weight() == weight:
            return
        serve_and_tick(world, 1)
    raise AssertionError(f"the candidate stays at {world.weight()}")


def _cause(world: ClusterWorld) -> Cause:
    world.watch()
    decision = world.stores.states.read().experiments[world.name].decision
    assert decision is not None
    return decision.cause


def test_the_status_says_what_kubectl_prints(world: ClusterWorld) -> None:
    _to(world, 1000)
    status = world.status()
    assert (status["phase"], status["candidateWeight"]) == ("Progressing", "10%")
    assert status["weights"] == {"model-a": 90, "model-b": 10}
    assert status["ranges"] == {"model-a": [[0, 9000]], "model-b": [[9000, 10_000]]}
    assert status["lastSeenSpecWeights"] == {"model-a": 100, "model-b": 0}
    assert (status["stage"]["index"], status["stage"]["of"], status["stage"]["weight"]) == (1, 3, 10)
    assert status["observedGeneration"] == world.thing()["metadata"]["generation"]
    assert status["leader"] == {"epoch": 1, "identity": world.stores.lease.identity}
    assert world.condition("Accepted")["status"] == "True"
    assert world.condition("Progressing")["status"] == "True"
    assert world.condition("Ready")["status"] == "True"
    assert status["reason"].endswith(status["lastDecision"]["reason"])


def test_a_status_is_written_on_a_change_and_for_numbers_once_a_minute(world: ClusterWorld) -> None:
    _to(world, 1000)
    serve_and_tick(world, 3)
    seen: list[str] = []
    for _ in range(24):
        world.tick(1)
        seen.append(world.thing()["metadata"]["resourceVersion"])
    assert len(set(seen)) <= 2  # 24 seconds with the same cause


def test_weights_that_are_edited_to_those_in_force_turn_the_rollout_manual_too(world: ClusterWorld) -> None:
    _to(world, 1000)
    world.edit({"variants": spec(10)["variants"]})
    world.tick()
    assert (world.weight(), world.phase(), _cause(world)) == (1000, Phase.MANUAL, Cause.WEIGHTS_EDITED)
    assert world.status()["lastSeenSpecWeights"] == {"model-a": 90, "model-b": 10}


def test_the_status_follows_every_edit_of_a_manual_rollout(world: ClusterWorld) -> None:
    """Also one back to the weights that were in force before it was manual, and one that is undone."""
    _to(world, 1000)
    for weight in (30, 40, 10, 40, 40):
        world.edit({"variants": spec(weight)["variants"]})
        world.tick()
        status, written = world.status(), {"model-a": 100 - weight, "model-b": weight}
        assert (status["phase"], status["candidateWeight"]) == ("Manual", f"{weight}%")
        assert status["weights"] == status["lastSeenSpecWeights"] == written
        assert (world.weight(), _cause(world)) == (100 * weight, Cause.WEIGHTS_EDITED)
        users = status["ranges"]
    edits = [entry.weights_after["model-b"] for entry in world.journal() if entry.cause is Cause.WEIGHTS_EDITED]
    assert edits == [3000, 4000, 1000, 4000]
    world.reapply(spec(40))
    world.tick()
    assert world.status()["ranges"] == users


def test_resume_goes_on_from_the_weights_in_force_and_takes_the_specs_as_seen(world: ClusterWorld) -> None:
    _to(world, 1000)
    world.edit({"variants": spec(30)["variants"]})
    world.tick()
    assert world.ask("one", "resume")["outcome"] == "done"
    assert (world.weight(), world.phase()) == (3000, Phase.PROGRESSING)
    _to(world, 5000)
    assert world.phase() is Phase.PROGRESSING


def test_a_request_is_carried_out_once(world: ClusterWorld) -> None:
    _to(world, 1000)
    answer = world.ask("one", "promote", step=True)
    assert (answer["id"], answer["outcome"]) == ("one", "done")
    assert world.weight() == 5000
    for _ in range(3):
        world.tick(0.1)
    world.restart()
    world.tick(0.1)
    assert world.weight() == 5000
    assert [entry.by for entry in world.journal() if entry.actor == "operator"] == ["ada"]


def test_weights_by_request_move_the_status_and_not_the_spec(world: ClusterWorld) -> None:
    _to(world, 1000)
    before = world.thing()["spec"]
    assert world.ask("one", "weights", **{"model-b": 12.5})["outcome"] == "done"
    assert (world.weight(), world.phase()) == (1250, Phase.MANUAL)
    assert world.thing()["spec"] == before
    world.tick()
    assert (world.weight(), world.phase()) == (1250, Phase.MANUAL)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"id": "one", "action": "resume"}, "no need to resume"),
        ({"id": "one", "action": "weights", "arguments": {"model-c": 5}}, "no variant named 'model-c'"),
        ({"id": "one", "action": "weights", "arguments": {"model-b": "many"}}, "not a weight"),
        ({"id": "one", "action": "weights", "arguments": {"model-b": 101}}, "not a weight"),
        ({"id": "one", "action": "pause", "arguments": {"step": True}}, "does not know"),
        ({"id": "one", "action": "dance"}, "cannot be read: action"),
        ({"id": "one", "action": "pause", "reason": "two\nlines"}, "not printable"),
        ({"id": "one", "action": "pause", "reason": "long " * 200}, "at most 500"),
        ({"id": "one", "action": "pause", "secret": "x"}, "cannot be read: secret"),
    ],
)
def test_a_request_that_cannot_be_done_is_answered_and_changes_nothing(
    world: ClusterWorld, request_: dict[str, object], told: str
) -> None:
    _to(world, 1000)
    before = world.stores.states.read()
    annotations = {REQUEST: json.dumps(request_)}
    world.people.merge_patch(EXPERIMENTS, "llm", "chat", {"metadata": {"annotations": annotations}})
    world.tick(0.1)
    answer = world.status()["lastRequest"]
    assert (answer["id"], answer["outcome"]) == ("one", "refused")
    assert told in answer["message"]
    world.watch()
    assert world.stores.states.read() == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"action": "pause"}', "x" * 5000, '{"id": 7, "action": "pause"}'])
def test_an_annotation_that_is_no_request_stops_nothing(world: ClusterWorld, text: str) -> None:
    annotations = {REQUEST: text}
    world.people.merge_patch(EXPERIMENTS, "llm", "chat", {"metadata": {"annotations": annotations}})
    _to(world, 1000)
    if text:
        assert world.status()["lastRequest"]["outcome"] == "refused"


def test_another_run_starts_again_at_the_specs_weights(world: ClusterWorld) -> None:
    world.edit(spec(0, run="first"))
    _to(world, 10_000)
    serve_and_tick(world, 40)
    assert world.phase() is Phase.PROMOTED
    assert world.status()["run"] == "first"
    world.edit({"rollout": {"run": "second"}})
    world.tick(0.1)
    assert world.status()["run"] == "second"
    assert world.phase() is Phase.PROGRESSING
    assert world.weight() in (0, 1000)
    _to(world, 5000)


def test_one_bad_experiment_is_told_and_touches_no_other(world: ClusterWorld, api: FakeApi) -> None:
    bad = spec(0)
    bad["variants"][0]["weight"] = 50
    world.people.create(EXPERIMENTS, "llm", manifest("llm", "bad", bad))
    _to(world, 1000)
    status = api.read(EXPERIMENTS, "llm", "bad")["status"]
    accepted = next(item for item in status["conditions"] if item["type"] == "Accepted")
    assert (accepted["status"], status["phase"]) == ("False", "Pending")
    assert "sum to exactly 100" in accepted["message"]
    assert "spec.variants" in accepted["message"]


def test_an_experiment_without_a_rollout_has_the_specs_weights(world: ClusterWorld, api: FakeApi) -> None:
    plain = spec(20)
    del plain["rollout"]
    world.people.create(EXPERIMENTS, "llm", manifest("llm", "plain", plain))
    world.tick()
    status = api.read(EXPERIMENTS, "llm", "plain")["status"]
    assert (status["phase"], status["weights"]) == ("Manual", {"model-a": 80, "model-b": 20})
    world.people.merge_patch(EXPERIMENTS, "llm", "plain", {"spec": {"variants": spec(30)["variants"]}})
    world.tick()
    status = api.read(EXPERIMENTS, "llm", "plain")["status"]
    assert status["lastSeenSpecWeights"] == status["weights"] == {"model-a": 70, "model-b": 30}


def test_events_tell_of_changes_and_count_what_happens_again(world: ClusterWorld) -> None:
    _to(world, 1000)
    for number in range(3):
        world.ask(f"pause-{number}", "pause")
        world.ask(f"resume-{number}", "resume")
    found = world.people.list(EVENTS, "llm").items
    notes = {item["note"]: item.get("series", {}).get("count", 1) for item in found}
    assert notes["paused at 10% by ada"] == 3
    assert any(item["reason"] == "Starting" for item in found)
    assert all(len(item["note"].encode()) <= 1024 for item in found)


class TestDeletedAndAppliedAgain:
    def test_promoted_users_stay(self, world: ClusterWorld) -> None:
        _to(world, 10_000)
        serve_and_tick(world, 40)
        assert world.phase() is Phase.PROMOTED
        ranges = world.status()["ranges"]
        world.reapply()
        world.tick(0.1)
        assert (world.weight(), world.phase()) == (10_000, Phase.PROMOTED)
        assert world.status()["ranges"] == ranges
        assert world.condition("Restored")["status"] == "True"
        world.tick()
        assert (world.weight(), world.phase()) == (10_000, Phase.PROMOTED)

    def test_so_do_they_if_no_controller_ran(self, world: ClusterWorld) -> None:
        _to(world, 5000)
        world.restart()
        world.reapply()
        world.tick(0.1)
        assert (world.weight(), world.phase()) == (5000, Phase.PROGRESSING)
        _to(world, 10_000)

    def test_another_salt_starts_afresh(self, world: ClusterWorld) -> None:
        _to(world, 5000)
        world.reapply({**world.body, "salt": "another"})
        world.tick(0.1)
        assert world.weight() in (0, 1000)
        assert world.phase() is Phase.PROGRESSING
        assert world.condition("Restored") == {}

    def test_so_does_one_that_was_gone_for_more_than_seven_days(self, world: ClusterWorld) -> None:
        _to(world, 5000)
        world.people.delete(EXPERIMENTS, "llm", "chat")
        world.tick()
        names = {item["metadata"]["name"] for item in _maps(world)}
        assert len(names) == 4  # evidence, journal, state, and the index
        world.now += timedelta(days=6)
        world.tick()
        assert {item["metadata"]["name"] for item in _maps(world)} == names
        world.now += timedelta(days=2)
        world.tick()
        assert {item["metadata"]["name"] for item in _maps(world)} == {"abmesh-experiments"}
        world.people.create(EXPERIMENTS, "llm", manifest("llm", "chat", world.body))
        world.tick()
        assert world.weight() in (0, 1000)


def _maps(world: ClusterWorld) -> list[dict[str, Any]]:
    return list(world.people.list(CONFIG_MAPS, world.own).items)
