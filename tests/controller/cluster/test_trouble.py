"""An API server that does not answer, answers late, or whose objects somebody else writes."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.kube.errors import Unreachable
from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS
from controller.cluster import journal as journals
from controller.cluster.journal import ClusterJournal
from controller.cluster.lease import NotLeadingError
from controller.cluster.names import evidence_map, journal_map
from controller.records import JournalEntry, Phase
from controller.state.evidence import StageEvidence
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld, spec
from tests.controller.state.entries import entry
from tests.controller.support import START, serve, serve_and_tick

TWO = [("advance", 0, 1000), ("advance", 1000, 5000)]


def _ready_to_advance(world: ClusterWorld) -> None:
    """The next tick moves the candidate from 10% to 50%."""
    world.tick(0)
    world.tick(6)
    serve(world, 200)
    world.tick(10)
    serve(world, 200)
    world.now = START.replace(minute=5)


def test_a_change_whose_answer_is_lost_is_found_to_be_done(world: ClusterWorld) -> None:
    _ready_to_advance(world)
    transitions = world.stores.transitions
    client = transitions._client
    lost: list[Any] = []

    class Lossy:
        def merge_patch(self, *args: Any, **options: Any) -> Any:
            done = client.merge_patch(*args, **options)
            if not lost:
                lost.append(done)
                raise Unreachable("the answer was lost")
            return done

    transitions._client = Lossy()  # type: ignore[assignment]  # the one method that is used
    report = world.tick(0)
    assert lost
    assert not report.failures
    assert world.moves() == TWO
    kept = world.stores.evidence.read(world.name)
    assert kept is not None
    assert [stage.weights["model-b"] for stage in kept.history.past] == [1000]


def test_a_change_that_is_carried_out_at_the_second_try_is_in_the_journal_once(world: ClusterWorld) -> None:
    """Somebody writes an annotation between the look and the patch."""
    _ready_to_advance(world)
    transitions = world.stores.transitions
    client = transitions._client
    annotated: list[Any] = []

    class Late:
        def merge_patch(self, *args: Any, **options: Any) -> Any:
            if not annotated:
                metadata = {"annotations": {"example.com/applied": "{}"}}
                annotated.append(client.merge_patch(EXPERIMENTS, world.namespace, world.bare, {"metadata": metadata}))
            return client.merge_patch(*args, **options)

    transitions._client = Late()  # type: ignore[assignment]  # the one method that is used
    world.tick(0)
    assert annotated
    assert world.weight() == 5000
    world.tick(1)
    serve_and_tick(world, 30)
    assert world.weight() == 10_000, "another change looks for what was left over"
    entries = world.journal()
    assert len({each.id for each in entries}) == len(entries)
    assert world.moves()[: len(TWO)] == TWO


def test_a_change_that_comes_late_is_in_the_journal_with_its_evidence(world: ClusterWorld) -> None:
    """Its patch is answered by nobody, lies on the way, and is carried out after it was given up."""
    _ready_to_advance(world)
    transitions = world.stores.transitions
    client = transitions._client
    late: list[Any] = []

    class Slow:
        def merge_patch(self, *args: Any, **options: Any) -> Any:
            late.append((args, options))
            raise Unreachable("no answer")

    transitions._client = Slow()  # type: ignore[assignment]  # the one method that is used
    transitions._sleep = lambda _: None
    assert world.tick(0).failures
    transitions._client = client
    assert world.weight() == 1000
    args, options = late[0]
    client.merge_patch(*args, **options)
    world.tick(1)
    assert world.weight() == 5000
    assert world.moves() == TWO
    kept = world.stores.evidence.read(world.name)
    assert kept is not None
    assert [stage.weights["model-b"] for stage in kept.history.past] == [1000]


def test_a_spec_that_changes_between_decision_and_write_is_decided_on_again_at_once(
    world: ClusterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ready_to_advance(world)
    journal = world.stores.journal
    begin = journal.begin
    begun: list[JournalEntry] = []

    def edit_first(self: ClusterJournal, entry: JournalEntry) -> None:
        if not begun:
            begun.append(entry)
            world.edit({"slices": 60})
        begin(entry)

    monkeypatch.setattr(ClusterJournal, "begin", edit_first)
    report = world.tick(0)
    assert not report.superseded
    assert world.weight() == 5000
    assert world.moves() == TWO


def test_weights_that_are_edited_between_decision_and_write_are_not_overwritten(
    world: ClusterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ready_to_advance(world)
    journal = world.stores.journal
    begin = journal.begin
    begun: list[JournalEntry] = []

    def edit_first(self: ClusterJournal, entry: JournalEntry) -> None:
        if not begun:
            begun.append(entry)
            world.edit({"variants": spec(10)["variants"]})  # what is in force already
        begin(entry)

    monkeypatch.setattr(ClusterJournal, "begin", edit_first)
    world.tick(0)
    world.tick(1)
    assert (world.weight(), world.phase()) == (1000, Phase.MANUAL)


def test_an_api_server_that_is_away_for_a_while_stops_nothing_for_good(world: ClusterWorld, api: FakeApi) -> None:
    _ready_to_advance(world)
    api.fail(503, "experiments", times=1000)
    failed = world.tick(0).failures
    assert "experiments.abmesh.dev" in failed[world.name]
    assert world.stores.lease.held
    api.heal()
    world.tick(1)
    assert world.moves() == TWO


def test_a_leader_that_finds_a_newer_ones_configmap_stops_leading(world: ClusterWorld, api: FakeApi) -> None:
    _ready_to_advance(world)
    name = evidence_map(world.name)
    present = api.read(CONFIG_MAPS, world.own, name)
    present["metadata"]["annotations"]["abmesh.dev/epoch"] = "2"
    world.people.replace(CONFIG_MAPS, world.own, name, present)
    with pytest.raises(NotLeadingError):
        world.stores.evidence.write(world.name, StageEvidence("another"))
    assert not world.stores.lease.held


def test_a_configmap_that_somebody_touched_is_written_all_the_same(world: ClusterWorld, api: FakeApi) -> None:
    _ready_to_advance(world)
    name = evidence_map(world.name)
    world.people.merge_patch(CONFIG_MAPS, world.own, name, {"metadata": {"labels": {"touched": "yes"}}})
    world.stores.evidence.write(world.name, StageEvidence("another"))
    assert api.read(CONFIG_MAPS, world.own, name)["metadata"]["annotations"]["abmesh.dev/epoch"] == "1"


def test_the_journal_is_a_ring_of_bounded_size(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_BYTES", 20_000)
    world.tick(0)
    for number in range(200):
        world.stores.journal.append(entry(f"entry-{number}", experiment=world.name), durable=True)
    kept = world.journal()
    assert 10 < len(kept) < 200
    assert kept[-1].id == "entry-199"
    assert [each.id for each in kept] == [f"entry-{number}" for number in range(200 - len(kept), 200)]
    assert len(world.told) >= 200  # standard output has all of them


def test_a_damaged_configmap_is_no_evidence_and_no_journal(world: ClusterWorld, api: FakeApi) -> None:
    _ready_to_advance(world)
    for name in (evidence_map(world.name), journal_map(world.name)):
        present = api.read(CONFIG_MAPS, world.own, name)
        present["binaryData"] = dict.fromkeys(present["binaryData"], "AAAA")
        api.put(CONFIG_MAPS, world.own, name, **{key: present[key] for key in ("binaryData", "metadata")})
    world.restart()
    for _ in range(60):
        serve_and_tick(world, 1)
    assert world.weight() >= 5000


def test_a_status_that_somebody_broke_holds_the_rollout_and_harm_still_rolls_back(
    world: ClusterWorld, api: FakeApi
) -> None:
    _ready_to_advance(world)
    present = api.read(EXPERIMENTS, "llm", "chat")
    present["status"]["plan"] = None
    api.put(EXPERIMENTS, "llm", "chat", **{key: present[key] for key in ("spec", "status", "metadata")})
    report = world.tick()
    assert "cannot be read" in report.failures[world.name]
    for _ in range(30):
        serve(world, 50, code=503)
        world.tick()
    assert world.weight() == 0


def test_a_deleted_experiment_is_left_alone(world: ClusterWorld) -> None:
    _ready_to_advance(world)
    world.people.delete(EXPERIMENTS, "llm", "chat")
    report = world.tick()
    assert not report.failures
    assert not report.outcomes


def test_evidence_waits_half_a_minute_and_is_written_when_the_process_ends(world: ClusterWorld) -> None:
    world.tick(0)
    store, name = world.stores.evidence, evidence_map(world.name)

    def version() -> str:
        return str(world.people.get(CONFIG_MAPS, world.own, name)["metadata"]["resourceVersion"])

    store.write(world.name, StageEvidence("one", requests=1))
    first = version()
    world.now = START.replace(second=29)
    store.write(world.name, StageEvidence("one", requests=2))
    assert version() == first
    store.flush()
    second = version()
    assert second != first
    world.now = START.replace(minute=1)
    store.write(world.name, StageEvidence("one", requests=3))
    assert version() != second


def test_what_cannot_be_found_is_gone_once_the_watch_says_so(world: ClusterWorld) -> None:
    """While the kind itself is being deleted, all that is read is gone, and no filter may go for that."""
    world.tick()
    world.people.delete(EXPERIMENTS, world.namespace, world.bare)
    experiments = world.stores.experiments
    assert experiments.fetch(world.name) is None
    report = world.stores.reconciler.reconcile(world.observe(), world.now, world.now)
    world.stores.attendant.after(report, world.now)
    assert experiments.known(world.name) is not None
    world.watch()
    assert experiments.known(world.name) is None
