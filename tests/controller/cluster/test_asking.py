"""What commands ask of a cluster's leader, with an API server in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abmesh.experiment.errors import RefusedError, SettingsError, StateError, UnknownName
from abmesh.kube.errors import Forbidden, Missing, Unreachable
from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.names import REQUEST
from controller.cluster.requests import waiting
from controller.records import Phase
from controller.rollout.place import Ask
from controller.rollout.preview import Preview
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.people import Person, forbid
from tests.controller.cluster.support import manifest, spec

NAME = "llm/chat"
AT = "2026-11-22T12:00:00Z"


def pause(person: Person, name: str = NAME) -> Any:
    return person.place.carry_out(Ask("pause", name, "ada", "a look"))


def removed(person: Person, name: str, *others: Any) -> None:
    """Say of an Experiment that somebody removed its filters."""
    condition = {"type": "Programmed", "status": "False", "reason": "RemovedByPerson", "message": "removed"}
    condition["lastTransitionTime"] = AT
    body = {"status": {"conditions": [*others, condition]}}
    person.world.people.merge_patch(EXPERIMENTS, "llm", name, body, subresource="status")


class TestAsking:
    def test_the_leader_carries_it_out_and_the_journal_has_who_and_why(self, person: Person) -> None:
        done = pause(person)
        assert (done.experiment, done.before, done.after) == (NAME, done.after, {"model-a": 9000, "model-b": 1000})
        assert done.reason == "paused at 10% by ada: a look"
        assert person.world.phase() is Phase.PAUSED
        (entry,) = (entry for entry in person.world.journal() if entry.by)
        assert (entry.by, entry.note, entry.actor) == ("ada", "a look", "operator")

    def test_a_rollback_moves_the_users_and_says_so(self, person: Person) -> None:
        done = person.place.carry_out(Ask("rollback", NAME, "ada"))
        assert (done.before["model-b"], done.after["model-b"]) == (1000, 0)
        assert person.world.weight() == 0

    def test_a_promotion_to_the_next_step(self, person: Person) -> None:
        shown: list[Preview] = []
        done = person.place.carry_out(Ask("promote", NAME, "ada", confirm=shown.append, step=True))
        assert done.after["model-b"] == 5000
        assert (shown[0].experiment.name, shown[0].after) == (NAME, 5000)

    def test_weights_move_the_status_and_not_the_spec(self, person: Person) -> None:
        before = person.world.thing()["spec"]
        done = person.place.set_weights(NAME, {"model-b": 1250}, by="ada", based_on=None)
        assert done.after == {"model-a": 8750, "model-b": 1250}
        assert person.world.thing()["spec"] == before
        assert person.world.phase() is Phase.MANUAL
        with pytest.raises(UnknownName, match="no variant named 'model-x'"):
            person.place.set_weights(NAME, {"model-x": 1250}, by="ada", based_on=None)
        with pytest.raises(SettingsError, match="--based-on is for a document"):
            person.place.set_weights(NAME, {"model-b": 1250}, by="ada", based_on="1")

    def test_what_the_state_does_not_allow_is_refused_before_anything_is_written(self, person: Person) -> None:
        with pytest.raises(RefusedError, match="no need to resume llm/chat: it is progressing at 10%"):
            person.place.carry_out(Ask("resume", NAME, "ada"))
        assert REQUEST not in person.world.thing()["metadata"].get("annotations", {})

    def test_filters_that_were_removed_let_a_progressing_rollout_be_resumed(self, person: Person) -> None:
        """Whether there is anything to resume then is the leader's to say."""
        removed(person, "chat", *person.world.status()["conditions"])
        person.alive = False
        with pytest.raises(StateError, match="the request stays"):
            person.place.carry_out(Ask("resume", NAME, "ada"))
        assert REQUEST in person.world.thing()["metadata"]["annotations"]

    def test_filters_that_were_removed_are_resumed_without_a_rollout(self, person: Person) -> None:
        body = spec(5)
        del body["rollout"]
        person.world.people.create(EXPERIMENTS, "llm", manifest("llm", "plain", body))
        resume = Ask("resume", "llm/plain", "ada", confirm=lambda _: pytest.fail("there is no rollout to show"))
        with pytest.raises(RefusedError, match="llm/plain has no rollout"):
            person.place.carry_out(resume)
        removed(person, "plain")
        person.alive = False
        with pytest.raises(StateError, match="the request stays"):
            person.place.carry_out(resume)
        with pytest.raises(RefusedError, match="llm/plain has no rollout"):
            pause(person, "llm/plain")

    def test_without_a_rollout_the_spec_is_to_be_changed(self, person: Person) -> None:
        body = spec(5)
        del body["rollout"]
        person.world.people.create(EXPERIMENTS, "llm", manifest("llm", "plain", body))
        with pytest.raises(RefusedError, match="llm/plain has no rollout, so its weights are its spec's"):
            person.place.set_weights("llm/plain", {"model-b": 1250}, by="ada", based_on=None)

    def test_what_changed_since_it_was_confirmed_is_not_done(self, person: Person) -> None:
        def confirm(_: Preview) -> None:
            person.world.ask("other", "rollback")

        with pytest.raises(RefusedError, match="has changed since it was shown, so nothing was done"):
            person.place.carry_out(Ask("promote", NAME, "ada", confirm=confirm))
        assert person.world.weight() == 0

    def test_a_status_that_is_written_meanwhile_does_not_hinder(self, person: Person) -> None:
        def confirm(_: Preview) -> None:
            body = {"metadata": {"annotations": {"team": "search"}}}
            person.world.people.merge_patch(EXPERIMENTS, "llm", "chat", body)

        before = person.world.thing()["metadata"]["resourceVersion"]
        done = person.place.carry_out(Ask("promote", NAME, "ada", confirm=confirm))
        assert person.world.thing()["metadata"]["resourceVersion"] != before
        assert done.after["model-b"] == 10_000

    def test_a_missing_right_is_named(self, api: FakeApi, person: Person) -> None:
        forbid(api, "PATCH /apis/abmesh.dev/v1alpha1/namespaces/llm/experiments/chat?")
        with pytest.raises(Forbidden, match=r"may not patch experiments.abmesh.dev chat in namespace llm: user ada"):
            pause(person)

    def test_an_answer_that_is_lost_is_not_asked_twice(self, api: FakeApi, person: Person) -> None:
        api.fail(500, "PATCH /apis/abmesh.dev/v1alpha1/namespaces/llm/experiments/chat?", times=1)
        with pytest.raises(Exception, match="broken"):
            pause(person)
        assert REQUEST not in person.world.thing()["metadata"].get("annotations", {})


class TestWithoutALeader:
    def _gone(self, person: Person) -> None:
        person.alive = False
        person.world.close()

    def test_the_request_stays_for_the_next_one(self, person: Person) -> None:
        self._gone(person)
        with pytest.raises(StateError) as refused:
            person.place.carry_out(Ask("rollback", NAME, "ada"))
        told = str(refused.value)
        assert "no controller leads (nobody holds the Lease abmesh/abmesh), so nobody has done this yet" in told
        assert "the request stays" in told
        assert "kubectl -n llm annotate abx chat abmesh.dev/request-" in told
        assert "Servers obey the weights of the spec even now: kubectl -n llm edit abx chat" in told
        assert person.told == ["llm/chat: waiting for a controller to lead"]
        assert 12 < person.now < 30
        person.world.restart()
        person.world.tick()
        assert person.world.weight() == 0

    def test_a_leader_that_does_not_answer_is_waited_for_and_no_longer(self, person: Person) -> None:
        person.alive = False
        with pytest.raises(StateError, match="the controller has not answered within 30 s; the request stays"):
            pause(person)
        assert 30 <= person.now < 35

    def test_an_api_server_that_fails_meanwhile_is_asked_again(self, api: FakeApi, person: Person) -> None:
        api.fail(503, "GET /apis/abmesh.dev/v1alpha1/namespaces/llm/experiments/chat ", times=1)
        with pytest.raises(Unreachable):
            pause(person)  # nothing was asked yet
        place, failed = person.place, []

        def told(_: str) -> None:
            failed.append(True)
            api.fail(503, "GET /apis/abmesh.dev/v1alpha1/namespaces/llm/experiments/chat ", times=3)
            person.alive = True

        person.alive = False
        place._asker._tell = told
        assert place.carry_out(Ask("pause", NAME, "ada")).reason == "paused at 10% by ada"
        assert failed == [True]

    def test_an_emergency_takes_the_place_of_a_request_that_nobody_answers(self, person: Person) -> None:
        self._gone(person)
        with pytest.raises(StateError):
            pause(person)
        with pytest.raises(StateError):
            person.place.carry_out(Ask("rollback", NAME, "bob"))
        assert "llm/chat: this takes the place of the request of ada to pause, which nobody has answered" in person.told
        found = waiting(person.world.thing())
        assert found is not None
        assert not isinstance(found, str)
        assert found.action == "rollback"

    def test_a_request_of_somebody_else_is_answered_first(self, person: Person) -> None:
        text = json.dumps({"id": "first", "action": "pause", "by": "bob"})
        person.world.people.merge_patch(EXPERIMENTS, "llm", "chat", {"metadata": {"annotations": {REQUEST: text}}})
        person.place.carry_out(Ask("rollback", NAME, "ada"))
        found = [(entry.by, entry.kind.value) for entry in person.world.journal() if entry.by]
        assert found == [("bob", "hold"), ("ada", "rollback")]

    def test_a_request_whose_place_was_taken_is_not_waited_for(self, person: Person) -> None:
        person.alive = False
        place, annotations = person.place, {REQUEST: json.dumps({"id": "other", "action": "pause"})}
        body = {"metadata": {"annotations": annotations}}

        def told(_: str) -> None:
            person.world.people.merge_patch(EXPERIMENTS, "llm", "chat", body)

        place._asker._tell = told
        with pytest.raises(StateError, match="another request took the place of this one"):
            place.carry_out(Ask("rollback", NAME, "ada"))

    def test_one_who_may_not_see_the_lease_waits(self, api: FakeApi, person: Person) -> None:
        forbid(api, "GET /apis/coordination.k8s.io/")
        assert pause(person).reason.startswith("paused at 10%")


def test_missing_kinds_are_said(api: FakeApi, person: Person) -> None:
    api.delete_kind(EXPERIMENTS)
    with pytest.raises(Missing, match="is its CRD installed"):
        pause(person)
