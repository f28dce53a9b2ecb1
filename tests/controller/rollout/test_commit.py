"""Crashes at every point of a change: the same stage, no step skipped or repeated, and one line in the journal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from abmesh.experiment.errors import Conflict, StoreError
from abmesh.experiment.store import Snapshot
from controller.records import JournalEntry, Phase
from controller.rollout.commit import Committer
from controller.state.documents import Documents
from controller.state.journal import Journal
from controller.state.states import StateStore
from controller.state.transition import Change, SupersededError
from tests.controller.support import NAME, START, World, serve, world


class Crash(BaseException):
    """The process dies: nothing catches it."""


class Script:
    """Dies before or after the n-th input or output; counts them all."""

    def __init__(self, die_at: int = -1, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._die_at = die_at
        self._after = after

    def step(self, name: str, action: Callable[[], object]) -> object:
        index = len(self.calls)
        self.calls.append(name)
        if index == self._die_at and not self._after:
            raise Crash(name)
        result = action()
        if index == self._die_at:
            raise Crash(name)
        return result


class CrashingDocuments:
    def __init__(self, inner: Documents, script: Script) -> None:
        self._inner, self._script = inner, script

    def read(self) -> Snapshot:
        found = self._script.step("document read", self._inner.read)
        assert isinstance(found, Snapshot)
        return found

    def write_weights(
        self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
    ) -> Snapshot:
        found = self._script.step(
            "document write", lambda: self._inner.write_weights(experiment, weights, based_on=based_on, urgent=urgent)
        )
        assert isinstance(found, Snapshot)
        return found


def _crash_points(monkeypatch: pytest.MonkeyPatch, subject: World, script: Script) -> None:
    """Let every write of the subject's state, journal and document go through the script."""
    subject.documents = CrashingDocuments(subject.documents, script)
    write, append = StateStore.write, Journal.append
    monkeypatch.setattr(StateStore, "write", lambda *a: script.step("state write", lambda: write(*a)))
    monkeypatch.setattr(Journal, "append", lambda *a, **k: script.step("journal append", lambda: append(*a, **k)))
    subject.restart()


def _ready_to_advance(folder: Path) -> World:
    """A world whose next tick moves the candidate from 10% to 50%."""
    subject = world(folder)
    subject.tick(0)
    assert subject.weight() == 1000
    subject.tick(6)
    serve(subject, 200)
    subject.tick(10)
    serve(subject, 200)
    subject.now = START.replace(minute=5)
    return subject


def _count_points(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        subject = _ready_to_advance(folder)
        script = Script()
        _crash_points(patch, subject, script)
        subject.tick(0)
        points = len(script.calls)
        assert script.calls.count("document write") == 1
        assert subject.weight() == 5000
        return points


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_point_of_a_change_takes_each_step_exactly_once(tmp_path: Path, after: bool) -> None:
    folder = tmp_path / "count"
    folder.mkdir()
    points = _count_points(folder)
    assert points >= 6
    for point in range(points):
        folder = tmp_path / f"point-{point}"
        folder.mkdir()
        subject = _ready_to_advance(folder)
        documents = subject.documents
        with pytest.MonkeyPatch.context() as patch:
            _crash_points(patch, subject, Script(point, after=after))
            with pytest.raises(Crash):
                subject.tick(0)
        subject.documents = documents
        subject.restart()
        subject.tick(1)
        state = subject.states.read().experiments[NAME]
        assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)], point
        assert (subject.weight(), state.stage.weight, state.phase, state.intent) == (5000, 5000, "progressing", None)
        moves = [entry for entry in subject.journal() if entry.weights_before != entry.weights_after]
        assert state.stage.id == moves[-1].id
        assert len({entry.id for entry in subject.journal()}) == len(subject.journal())


def test_crashing_again_while_recovering_changes_nothing(tmp_path: Path) -> None:
    """Every tick dies one point later than the one before, from a fresh start each time."""
    subject = _ready_to_advance(tmp_path)
    documents = subject.documents
    for point in range(40):
        subject.documents = documents
        with pytest.MonkeyPatch.context() as patch:
            _crash_points(patch, subject, Script(point % 10, after=point % 2 == 0))
            try:
                subject.tick(0.1)
            except Crash:
                continue
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)]


def test_a_stage_whose_weights_are_written_late_starts_late(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    documents = subject.documents
    with pytest.MonkeyPatch.context() as patch:
        script = Script()
        _crash_points(patch, subject, script)
        patch.setattr(CrashingDocuments, "write_weights", lambda *a, **k: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            subject.tick(0)
    subject.documents = documents
    subject.restart()
    subject.tick(7200)
    assert subject.weight() == 5000
    assert subject.states.read().experiments[NAME].stage.started_at == subject.now


def _write(subject: World, candidate: int) -> None:
    snapshot = subject.documents.read()
    weights = {"model-a": 10_000 - candidate, "model-b": candidate}
    subject.documents.write_weights(NAME, weights, based_on=snapshot.generation)


def test_weights_edited_between_a_crash_and_its_recovery_are_not_overwritten(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    documents = subject.documents
    with pytest.MonkeyPatch.context() as patch:
        _crash_points(patch, subject, Script())
        patch.setattr(CrashingDocuments, "write_weights", lambda *a, **k: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            subject.tick(0)
    subject.documents = documents
    _write(subject, 3300)
    subject.restart()
    for _ in range(3):
        subject.tick(100)
    state = subject.states.read().experiments[NAME]
    assert (subject.weight(), state.phase, state.intent) == (3300, Phase.MANUAL, None)
    assert state.decision is not None
    assert "someone edited the weights" in state.decision.reason
    assert subject.moves() == [("advance", 0, 1000)]
    assert [entry.phase for entry in subject.journal()].count(Phase.MANUAL) >= 1


def test_a_conflict_with_an_edit_elsewhere_in_the_document_is_retried(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    inner = subject.documents
    edits = 0

    class Busy(CrashingDocuments):
        def write_weights(
            self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
        ) -> Snapshot:
            nonlocal edits
            if edits < 5:
                edits += 1
                path = tmp_path / "experiments.yaml"
                path.write_text(path.read_text() + f"# {edits}\n")
            return inner.write_weights(experiment, weights, based_on=based_on)

    subject.documents = Busy(inner, Script())
    subject.restart()
    subject.tick(0)
    assert subject.weight() == 5000
    assert edits == 5


def test_a_conflict_that_does_not_end_is_an_error_and_the_change_is_finished_later(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    inner = subject.documents

    class Busy(CrashingDocuments):
        def write_weights(
            self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
        ) -> Snapshot:
            raise Conflict("changed")

    subject.documents = Busy(inner, Script())
    subject.restart()
    report = subject.tick(0)
    assert "100 times" in report.failures[NAME]
    assert subject.states.read().experiments[NAME].intent is not None
    subject.documents = inner
    subject.restart()
    subject.tick(1)
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)]


def test_a_document_that_cannot_be_written_keeps_the_intent_until_it_can(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    inner = subject.documents

    class ReadOnly(CrashingDocuments):
        def write_weights(
            self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
        ) -> Snapshot:
            raise StoreError("read-only")

    subject.documents = ReadOnly(inner, Script())
    subject.restart()
    for _ in range(3):
        assert subject.tick(5).failures == {NAME: "read-only"}
    subject.documents = inner
    subject.restart()
    subject.tick(5)
    assert subject.weight() == 5000
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)]


def test_a_decision_on_a_state_that_has_changed_is_not_carried_out(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    committer = Committer(subject.states, Journal(subject.folder), subject.documents)
    before = subject.states.read()

    def plan(*_: object) -> Change:
        raise SupersededError("changed")

    with pytest.raises(SupersededError):
        committer.change(NAME, plan, START)
    with pytest.raises(SupersededError):
        committer.put(NAME, None, before.experiments[NAME])
    assert subject.states.read() == before


def test_a_rollback_needs_nothing_but_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk with the state is full: users are protected all the same, and it is recorded once that is possible."""
    subject = _ready_to_advance(tmp_path)
    subject.traffic.serve("model-b", 100, code=500)
    blocked = subject.folder / "rollouts" / "chat.json.tmp"
    blocked.mkdir()
    report = subject.tick(1)
    assert re.search(r"cannot be written", report.failures[NAME])
    assert subject.weight() == 0
    blocked.rmdir()
    subject.tick(5)
    subject.tick(5)
    assert subject.states.read().experiments[NAME].phase is Phase.ROLLED_BACK
    assert subject.weight() == 0
    assert subject.moves()[-1] == ("rollback", 1000, 0)


def test_the_journal_has_the_inputs_of_a_decision(tmp_path: Path) -> None:
    subject = _ready_to_advance(tmp_path)
    generation = f"{subject.documents.read().generation:013x}"
    subject.tick(0)
    entry: JournalEntry = subject.journal()[-1]
    assert (entry.kind, entry.cause, entry.actor, entry.generation) == ("advance", "passed", "controller", generation)
    assert entry.evidence["model-b"]["requests"] == 400
    assert [item["verdict"] for item in entry.judgements] == ["healthy", "healthy"]
    assert entry.sources == {"total": 1, "answered": 1, "absent": {}}
    assert entry.stage.weight == 1000
