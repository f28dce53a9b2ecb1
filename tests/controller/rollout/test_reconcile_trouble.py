"""Rollouts whose document, state or clock somebody changes under way, and what goes wrong alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.records import Cause, Phase
from controller.rollout.reconcile import Reconciler
from tests.controller.support import DOCUMENT, NAME, serve_and_tick, world


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
    subject.states.path.unlink()
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
