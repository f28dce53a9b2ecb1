"""What commands read of a cluster, with an API server in this process."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from abmesh.experiment.errors import RefusedError, UnknownName
from abmesh.kube.errors import Forbidden
from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS, LEASES
from controller.cluster.journal import KEY
from controller.cluster.lookout import Lookout
from controller.cluster.maps import binary_of, packed, unpacked
from controller.cluster.names import LEASE, REQUEST, journal_map
from controller.rollout.place import Ask, Unseen
from controller.rollout.status import status_of
from controller.state.journal_reader import Reader
from controller.state.lookup import decision_to_explain, kept_evidence
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.people import Person, forbid
from tests.controller.cluster.support import OURS, manifest, spec
from tests.controller.support import serve_and_tick

NAME = "llm/chat"
AT = "2026-11-22T12:00:00Z"


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
