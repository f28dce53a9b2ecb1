"""Harm while an earlier change cannot be finished: the disk does not take its record, or somebody keeps a lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.experiment import files
from abmesh.experiment.errors import StateError
from abmesh.experiment.store import FileStore
from controller.records import Kind, Phase
from tests.controller.support import NAME, World, serve, world


class _Disk:
    """A disk whose writes fail while it is full: the journal's always, the state's if told so."""

    def __init__(self, patch: pytest.MonkeyPatch, *, state_too: bool) -> None:
        self._patch = patch
        self._state_too = state_too

    def fill(self) -> None:
        def full(*_: object, **__: object) -> None:
            raise StateError("cannot be written: No space left on device")

        self._patch.setattr("controller.state.journal.Journal.append", full)
        if self._state_too:
            self._patch.setattr("controller.state.states.replace_file", full)
            self._patch.setattr("controller.state.evidence.replace_file", full)

    def empty(self) -> None:
        self._patch.undo()


def _run(subject: World, ticks: int, *, code: int = 200) -> list[int]:
    """The candidate's weight after each tick of five seconds."""
    weights = []
    for _ in range(ticks):
        serve(subject, 50, code=code)
        subject.tick()
        weights.append(subject.weight())
    return weights


def _fail_the_advance_to(subject: World, weight: int, disk: _Disk) -> None:
    """The disk fills up in the instant in which the document gets a weight."""
    original = subject.documents.write_weights

    def write(experiment: str, weights: dict[str, int], *, based_on: int) -> object:
        snapshot = original(experiment, weights, based_on=based_on)
        if weights["model-b"] == weight:
            disk.fill()
        return snapshot

    subject.documents.write_weights = write  # type: ignore[method-assign, assignment]  # a double of one method
    for _ in range(100):
        if subject.weight() < weight:
            _run(subject, 1)
    assert subject.weight() == weight
    subject.documents.write_weights = original  # type: ignore[method-assign]  # the double is taken away
    assert subject.states.read().experiments[NAME].intent is not None


@pytest.mark.parametrize("state_too", [False, True])
@pytest.mark.parametrize("weight", [1000, 5000])
def test_harm_rolls_back_at_once_and_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: int, state_too: bool
) -> None:
    subject, disk = world(tmp_path), _Disk(monkeypatch, state_too=state_too)
    _fail_the_advance_to(subject, weight, disk)
    weights = _run(subject, 40, code=503)
    assert weights[5:] == [0] * 35
    disk.empty()
    assert _run(subject, 40) == [0] * 40
    state = subject.states.read().experiments[NAME]
    assert (state.phase, state.intent) == (Phase.ROLLED_BACK, None)
    earlier = {1000: 0, 5000: 1000}[weight]
    assert subject.moves()[-2:] == [("advance", earlier, weight), ("rollback", weight, 0)]
    rollback = next(entry for entry in subject.journal() if entry.kind is Kind.ROLLBACK)
    assert "error_rate" in rollback.reason


def test_a_controller_restarted_on_a_full_disk_does_not_resume_the_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, disk = world(tmp_path), _Disk(monkeypatch, state_too=False)
    _fail_the_advance_to(subject, 1000, disk)
    _run(subject, 6, code=503)
    subject.restart()
    assert _run(subject, 5) == [0] * 5
    disk.empty()
    subject.restart()
    assert _run(subject, 5) == [0] * 5
    assert subject.states.read().experiments[NAME].phase is Phase.ROLLED_BACK


def test_weights_that_somebody_edits_meanwhile_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, disk = world(tmp_path), _Disk(monkeypatch, state_too=True)
    _fail_the_advance_to(subject, 5000, disk)
    generation = subject.documents.read().generation
    subject.documents.write_weights(NAME, {"model-a": 6500, "model-b": 3500}, based_on=generation)
    assert _run(subject, 10, code=503) == [3500] * 10
    disk.empty()
    assert _run(subject, 2) == [3500] * 2
    assert subject.states.read().experiments[NAME].phase is Phase.MANUAL


def test_a_good_candidate_waits_and_advances_once_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, disk = world(tmp_path), _Disk(monkeypatch, state_too=True)
    _fail_the_advance_to(subject, 1000, disk)
    assert _run(subject, 20) == [1000] * 20
    disk.empty()
    _run(subject, 20)
    assert subject.moves()[:2] == [("advance", 0, 1000), ("advance", 1000, 5000)]


def test_harm_rolls_back_although_somebody_keeps_the_documents_lock_since_before_an_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abmesh.experiment.saves.URGENT_SECONDS", 0.02)
    path = tmp_path / "experiments.yaml"
    subject = world(tmp_path)
    subject.documents = FileStore(path, lock_seconds=0.02)
    subject.restart()
    while subject.weight() < 1000:
        _run(subject, 1)
    with files.locked(path, 1):
        for _ in range(100):
            if subject.states.read().experiments[NAME].intent is None:
                _run(subject, 1)
        assert subject.states.read().experiments[NAME].intent is not None
        weights = _run(subject, 20, code=503)
        assert weights[-10:] == [0] * 10
    _run(subject, 5)
    assert subject.weight() == 0
    assert subject.phase() is Phase.ROLLED_BACK
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]
