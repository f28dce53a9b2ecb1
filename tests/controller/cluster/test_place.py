"""What commands read of a cluster, and what they ask of its leader, with an API server in this process."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from abmesh.experiment.errors import RefusedError, SettingsError, StateError, UnknownName
from abmesh.kube.errors import Forbidden, Missing, Unreachable
from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS, LEASES
from controller.cluster.journal import KEY
from controller.cluster.lookout import Lookout
from controller.cluster.maps import binary_of, packed, unpacked
from controller.cluster.names import LEASE, REQUEST, journal_map
from controller.cluster.requests import waiting
from controller.records import Phase
from controller.rollout.place import Ask, Unseen
from controller.rollout.preview import Preview
from controller.rollout.status import status_of
from controller.state.journal_reader import Reader
from controller.state.lookup import decision_to_explain, kept_evidence
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.people import Person
from tests.controller.cluster.support import OURS, ClusterWorld, manifest, spec
from tests.controller.support import serve_and_tick

NAME = "llm/chat"
AT = "2026-11-22T12:00:00Z"


@pytest.fixture
def person(world: ClusterWorld) -> Person:
    """A rollout at its first step, judged."""
    for _ in range(100):
        if world.weight() == 1000:
            break
        serve_and_tick(world, 1)
    serve_and_tick(world, 8, good=40)
    return Person(world)


def forbid(api: FakeApi, where: str) -> None:
    api.fail(403, where, times=1000, reason="Forbidden", message="user ada cannot do that")


class TestReading:
    def test_status_has_what_the_state_folder_would_have(self, person: Person) -> None:
        (found,) = status_of(person.place, now=person.world.now)
        assert (found.experiment, found.phase, found.candidate) == (NAME, "progressing", "model-b")
        assert (found.step, found.steps, found.weight) == (1, 3, 1000)
        assert found.requests > 0
        assert found.decision is not None
        assert found.leader == person.world.stores.lease.identity
        assert found.unseen == ()

    def test_an_experiment_that_is_refused_is_shown_with_the_reason(self, person: Person) -> None:
        bad = spec()
        bad["variants"][0]["weight"] = 90
        person.world.people.create(EXPERIMENTS, "llm", manifest("llm", "bad", bad))
        found = {item.experiment: item for item in status_of(person.place, now=person.world.now)}
        assert found.keys() == {NAME, "llm/bad"}
        assert found["llm/bad"].config_error.startswith("llm/bad is not accepted: spec.variants: ")
        assert found[NAME].config_error == ""
        with pytest.raises(RefusedError, match="llm/bad is not accepted"):
            person.place.experiment("llm/bad")

    def test_without_a_right_the_rest_is_shown_and_the_right_named_once(self, api: FakeApi, person: Person) -> None:
        person.world.people.create(EXPERIMENTS, "llm", manifest("llm", "other", spec()))
        forbid(api, "/configmaps/")
        forbid(api, "/leases/")
        found = status_of(person.place, now=person.world.now)
        assert [item.experiment for item in found] == [NAME, "llm/other"]
        assert found[0].phase == "progressing"
        leader, counted = found[0].unseen
        assert leader.startswith(
            "whether a controller leads: may not get leases.coordination.k8s.io abmesh in namespace"
        )
        assert counted.startswith("what was counted: may not get configmaps evidence-")
        assert "in namespace abmesh: user ada cannot do that" in counted

    def test_without_the_right_to_list_nothing_is_made_up(self, api: FakeApi, person: Person) -> None:
        forbid(api, "GET /apis/abmesh.dev/")
        with pytest.raises(Forbidden, match=r"may not list experiments.abmesh.dev in namespace llm: user ada"):
            status_of(person.place)

    def test_conditions_that_nothing_else_says_are_notes(self, person: Person) -> None:
        conditions = person.world.status()["conditions"] + [
            {"type": kind, "status": status, "reason": "Because", "message": "why", "lastTransitionTime": AT}
            for kind, status in (("Programmed", "False"), ("Contested", "True"), ("Restored", "False"))
        ]
        thing = person.world.thing()
        body = {
            "metadata": {"resourceVersion": thing["metadata"]["resourceVersion"]},
            "status": {"conditions": conditions},
        }
        person.world.people.merge_patch(EXPERIMENTS, "llm", "chat", body, subresource="status")
        (found,) = status_of(person.place)
        assert found.notes == ("Programmed is False (Because): why", "Contested is True (Because): why")

    def test_the_journal_reads_as_a_file_does(self, person: Person) -> None:
        with Reader(person.place.journal(NAME), NAME) as reader:
            oldest = list(reader.oldest_first())
            assert [entry.id for entry in reader.newest_first()] == [entry.id for entry in reversed(oldest)]
            assert [entry.id for entry in reader.oldest_first(1)] == [oldest[-1].id]
        assert oldest == person.world.journal()

    def test_the_journal_of_a_namespace_is_one_in_order_of_time(self, person: Person) -> None:
        person.world.people.create(EXPERIMENTS, "llm", manifest("llm", "other", spec(5)))
        serve_and_tick(person.world, 40)
        with Reader(person.place.journal(None)) as reader:
            found = list(reader.oldest_first())
        assert {entry.experiment for entry in found} == {NAME, "llm/other"}
        assert [entry.at for entry in found] == sorted(entry.at for entry in found)

    def test_a_change_that_did_not_happen_is_left_out(self, api: FakeApi, person: Person) -> None:
        before = person.world.journal()
        forbid(api, "/experiments/chat/status")
        person.world.people.merge_patch(
            EXPERIMENTS,
            "llm",
            "chat",
            {"metadata": {"annotations": {REQUEST: json.dumps({"id": "1", "action": "pause"})}}},
        )
        person.world.tick()
        api.heal()
        with Reader(person.place.journal(NAME), NAME) as reader:
            assert [entry.id for entry in reader.oldest_first()] == [entry.id for entry in before]

    def test_what_is_damaged_is_named(self, api: FakeApi, person: Person) -> None:

        name = journal_map(NAME)
        present = api.read(CONFIG_MAPS, OURS, name)
        content = packed(unpacked(binary_of(present, KEY)) + b"\nnonsense")
        api.put(CONFIG_MAPS, OURS, name, binaryData={KEY: base64.b64encode(content).decode()})
        with Reader(person.place.journal(NAME), NAME) as reader:
            count = len(list(reader.oldest_first()))
            assert reader.damaged_places() == (f"ConfigMap {OURS}/{name}: entry {count + 1}",)

    def test_the_last_decision_can_be_explained(self, person: Person) -> None:
        place = person.place
        found = decision_to_explain(place.journal(NAME), NAME, None, kept_evidence(place.evidence, [NAME]))
        assert found is not None
        assert found.entry.inputs is not None

    def test_an_unknown_name_lists_those_that_there_are(self, person: Person) -> None:
        for ask in (lambda: person.place.experiment("llm/none"), lambda: pause(person, "llm/none")):
            with pytest.raises(UnknownName, match="no experiment named 'llm/none'; there is: llm/chat"):
                ask()

    def test_names_have_the_namespace_of_the_context(self, person: Person) -> None:
        assert person.place.name("chat") == NAME
        assert person.place.name("web/chat") == "web/chat"


def pause(person: Person, name: str = NAME) -> Any:
    return person.place.carry_out(Ask("pause", name, "ada", "a look"))


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
        condition = {"type": "Programmed", "status": "False", "reason": "RemovedByPerson", "message": "removed"}
        condition["lastTransitionTime"] = AT
        body = {"status": {"conditions": [*person.world.status()["conditions"], condition]}}
        person.world.people.merge_patch(EXPERIMENTS, "llm", "chat", body, subresource="status")
        person.alive = False
        with pytest.raises(StateError, match="the request stays"):
            person.place.carry_out(Ask("resume", NAME, "ada"))
        assert REQUEST in person.world.thing()["metadata"]["annotations"]

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


class TestLookout:
    NOW = datetime(2026, 12, 1, tzinfo=UTC)

    def lease(self, api: FakeApi, seconds: float, holder: str = "one") -> None:
        renewed = (self.NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 10}
        api.put(LEASES, OURS, LEASE, spec=spec)

    def look(self, api: FakeApi, sleep: Any = lambda _: None) -> Lookout:
        return Lookout(api.client(), OURS, lambda: self.NOW, sleep)

    def test_a_fresh_lease_has_a_leader(self, api: FakeApi) -> None:
        self.lease(api, 3)
        found = self.look(api).leader()
        assert found is not None
        assert (found.process, found.age(self.NOW)) == ("one", 3)

    def test_one_that_ran_out_has_none(self, api: FakeApi) -> None:
        self.lease(api, 60)
        lookout = self.look(api)
        assert lookout.leader() is None
        assert lookout.last == "the Lease abmesh/abmesh of one was renewed last at 2026-11-30 23:59:00 UTC"

    def test_a_wrong_clock_does_not_declare_a_leader_dead(self, api: FakeApi) -> None:
        self.lease(api, 60)
        found = self.look(api, lambda _: self.lease(api, 58)).leader()
        assert found is not None
        assert found.process == "one"

    def test_none_and_one_that_was_given_back(self, api: FakeApi) -> None:
        assert self.look(api).leader() is None
        self.lease(api, 1, holder="")
        assert self.look(api).leader() is None

    def test_a_missing_right_is_no_missing_leader(self, api: FakeApi) -> None:
        forbid(api, "/leases/")
        with pytest.raises(Unseen, match="whether a controller leads: may not get leases"):
            self.look(api).leader()


def test_missing_kinds_are_said(api: FakeApi, person: Person) -> None:
    api.delete_kind(EXPERIMENTS)
    with pytest.raises(Missing, match="is its CRD installed"):
        pause(person)
