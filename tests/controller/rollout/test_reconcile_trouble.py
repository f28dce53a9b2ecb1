"""Rollouts whose document, state or clock somebody changes under way, and what goes wrong alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from abmesh.analysis.replay import replay
from abmesh.experiment import files
from abmesh.experiment.errors import StateError
from controller.records import Cause, Phase
from controller.rollout.reconcile import Reconciler
from controller.state.locks import exclusive
from tests.controller.support import DOCUMENT, NAME, World, serve_and_tick, world


def test_a_persons_edit_turns_it_manual_for_good(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    path = tmp_path / "experiments.yaml"
    path.write_text(path.read_text().replace("weight: 90", "weight: 65").replace("weight: 10", "weight: 35"))
    serve_and_tick(subject, 40, bad=50)
    assert subject.weight() == 3500
    assert subject.phase() is Phase.MANUAL
    entries = [entry for entry in subject.journal() if entry.phase is Phase.MANUAL]
    assert entries[0].cause is Cause.WEIGHTS_EDITED
    assert entries[0].phase_before is Phase.PROGRESSING
    assert entries[-1].cause is Cause.MANUAL


def test_a_refused_document_holds_says_so_and_loses_no_evidence(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 8)
    path = tmp_path / "experiments.yaml"
    good = path.read_text()
    path.write_text(good.replace("weight: 10", "weight: 11"))
    for _ in range(30):
        # The document cannot be read, so its weights are those of before: 90 and 10%.
        subject.traffic.serve("model-a", 450)
        subject.traffic.serve("model-b", 50)
        report = subject.tick()
    assert report.generation is None
    assert "sum to exactly 100" in report.document_error
    last = subject.journal()[-1]
    assert last.cause is Cause.DOCUMENT_REFUSED
    assert "experiments.yaml" in last.reason
    path.write_text(good)
    subject.tick()
    assert subject.moves()[-1] == ("advance", 1000, 5000)


def test_a_missing_document_holds_until_it_is_back(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    path = tmp_path / "experiments.yaml"
    good = path.read_text()
    path.unlink()
    assert subject.tick().document_error
    path.write_text(good)
    serve_and_tick(subject, 20)
    assert subject.weight() == 5000


def test_lost_state_is_no_new_rollout(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20, bad=50)
    assert subject.phase() is Phase.ROLLED_BACK
    subject.lose_states()
    subject.restart()
    serve_and_tick(subject, 20)
    assert subject.weight() == 0
    assert subject.phase() is Phase.MANUAL
    assert "its state is missing" in subject.journal()[-1].reason


def test_a_clock_that_was_set_back_does_not_freeze_the_stage(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    subject.tick(-86_400)
    assert subject.states.read().experiments[NAME].stage.started_at == subject.now
    serve_and_tick(subject, 15)
    assert subject.weight() == 5000


def test_an_experiment_without_a_rollout_is_left_alone(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.split("    rollout:")[0])
    report = subject.tick()
    assert report.outcomes == ()
    assert subject.states.read().experiments == {}


TWO = DOCUMENT + DOCUMENT.split("experiments:\n")[1].replace("name: chat", "name: other\n    match: {path_prefix: /o/}")


def test_one_experiments_failure_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = world(tmp_path, TWO)
    steer_one = Reconciler._reconcile_one

    def fail(self: Reconciler, snapshot: object, experiment: object, *rest: object) -> object:
        if getattr(experiment, "name", "") == NAME:
            raise RuntimeError("a bug")
        return steer_one(self, snapshot, experiment, *rest)  # type: ignore[arg-type]  # the arguments pass through

    monkeypatch.setattr(Reconciler, "_reconcile_one", fail)
    report = subject.tick()
    assert report.failures == {NAME: "RuntimeError('a bug')"}
    assert [outcome.experiment for outcome in report.outcomes] == ["other"]
    assert subject.documents.read().document.experiment("other").weights["model-b"] == 1000


def test_an_experiment_that_leaves_the_document_and_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    assert subject.weight() == 5000
    path = tmp_path / "experiments.yaml"
    good = path.read_text()
    path.write_text("version: 1\nexperiments: []\n")
    subject.tick()
    path.write_text(good)
    moves = subject.moves()
    subject.restart()
    subject.tick()
    assert subject.phase() is Phase.PROGRESSING
    assert subject.moves() == moves


def test_one_experiments_damaged_state_leaves_the_others_alone(tmp_path: Path) -> None:
    subject = world(tmp_path, TWO)
    subject.tick()
    for path in (subject.folder / "rollouts").glob("chat.json*"):
        path.write_text("{")
    subject.restart()
    report = subject.tick()
    assert [outcome.experiment for outcome in report.outcomes] == ["other"]
    assert "harm is still rolled back" in report.failures[NAME]


def _damaged_at_10_percent(folder: Path) -> World:
    subject = world(folder)
    serve_and_tick(subject, 3)
    assert subject.weight() == 1000
    subject.damage_states()
    subject.restart()
    return subject


def test_harm_is_rolled_back_while_the_state_is_damaged_and_it_can_be_replayed(tmp_path: Path) -> None:
    subject = _damaged_at_10_percent(tmp_path)
    serve_and_tick(subject, 10, bad=50)
    assert subject.weight() == 0
    last = subject.journal()[-1]
    assert (last.kind, last.cause, last.phase) == ("rollback", Cause.HARMFUL, Phase.ROLLED_BACK)
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]
    assert [item.differences for item in replay(subject.journal()) if item.differences] == []


def test_no_step_is_taken_while_the_state_is_damaged(tmp_path: Path) -> None:
    subject = _damaged_at_10_percent(tmp_path)
    serve_and_tick(subject, 40)
    assert subject.weight() == 1000
    assert subject.moves() == [("advance", 0, 1000)]


def test_a_rollout_that_was_a_persons_stays_theirs_while_its_state_is_damaged(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    path = tmp_path / "experiments.yaml"
    path.write_text(path.read_text().replace("weight: 90", "weight: 65").replace("weight: 10", "weight: 35"))
    serve_and_tick(subject, 2)
    assert subject.phase() is Phase.MANUAL
    subject.damage_states()
    subject.restart()
    serve_and_tick(subject, 20, bad=50)
    assert subject.weight() == 3500


def test_a_restored_state_continues_where_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    assert subject.weight() == 5000
    before = subject.states.read().get(NAME)
    path = subject.states.path(NAME)
    path.write_bytes(path.read_bytes().replace(b"5000", b"5001"))
    subject.restart()
    moves = subject.moves()
    subject.tick()
    assert subject.states.read().restored == {}
    assert subject.states.read().get(NAME) == before
    assert subject.moves() == moves
    assert "previous copy is whole" in caplog.text


def test_harm_is_rolled_back_although_a_lock_is_kept_and_recorded_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.rollout.reconcile.URGENT_SECONDS", 0.05)
    monkeypatch.setattr("abmesh.experiment.saves.URGENT_SECONDS", 0.05)
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    subject.restart()
    with exclusive(subject.folder / "state.lock"), files.locked(tmp_path / "experiments.yaml", 1):
        serve_and_tick(subject, 10, bad=50)
        assert subject.weight() == 0
        failure = subject.tick().failures[NAME]
        assert f"process {os.getpid()} " in failure
    subject.tick()
    subject.tick()
    assert subject.phase() is Phase.ROLLED_BACK
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]


def test_a_new_rollouts_harm_is_rolled_back_although_it_cannot_get_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StateError("no space")

    monkeypatch.setattr("controller.state.states.replace_file", full)
    subject = world(tmp_path, DOCUMENT.replace("weight: 100", "weight: 80").replace("weight: 0", "weight: 20"))
    serve_and_tick(subject, 10, bad=50)
    assert subject.weight() == 0


def test_states_of_an_earlier_version_get_files_of_their_own(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    state = subject.states.read().experiments[NAME]
    subject.lose_states()
    old = {"version": 1, "revision": 3, "experiments": {NAME: state.model_dump(mode="json")}}
    (subject.folder / "state.json").write_text(json.dumps(old))
    subject.restart()
    subject.tick()
    assert subject.states.path(NAME).exists()
    assert not (subject.folder / "state.json").exists()
    assert subject.states.read().get(NAME) == state


def test_harm_is_rolled_back_while_the_state_is_damaged_although_the_clock_is_set_back(tmp_path: Path) -> None:
    subject = _damaged_at_10_percent(tmp_path)
    serve_and_tick(subject, 1)
    subject.tick(-24 * 3600)
    serve_and_tick(subject, 12, bad=50)
    assert subject.weight() == 0
