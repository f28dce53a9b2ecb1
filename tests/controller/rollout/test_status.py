from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.experiment.errors import DocumentError, StoreError
from abmesh.experiment.store import FileStore
from abmesh.mesh import parts
from controller.rollout import commands
from controller.rollout.status import read_status
from controller.settings import Settings
from controller.state.lease import Lease
from controller.state.renderings import FILE, write_renderings
from tests.controller.support import DOCUMENT, NAME, World, serve_and_tick, world


def _setup(folder: Path, text: str = DOCUMENT) -> tuple[World, Settings]:
    subject = world(folder, text)
    return subject, Settings(folder / "experiments.yaml", state_dir=subject.folder)


def test_before_any_controller_has_run(tmp_path: Path) -> None:
    _, settings = _setup(tmp_path)
    (found,) = read_status(settings)
    assert (found.experiment, found.candidate, found.phase) == (NAME, "model-b", "new")
    assert found.weights == {"model-a": 10_000, "model-b": 0}
    assert (found.step, found.steps, found.decision, found.leader) == (0, 3, None, None)
    assert not settings.state_folder.exists()


def test_in_the_middle_of_a_stage(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    subject.tick(6)
    subject.traffic.serve("model-b", 42)
    subject.tick(5)
    (found,) = read_status(settings, now=subject.now + timedelta(seconds=2))
    assert (found.phase, found.weight, found.step, found.steps) == ("progressing", 1000, 1, 3)
    assert (found.requests, found.min_requests, found.stage_age) == (42, 100, timedelta(seconds=13))
    assert found.decision is not None
    assert (found.decision.kind, found.decision.cause) == ("hold", "min_duration")
    assert "42 requests" in found.decision.reason
    assert found.generation == f"{subject.documents.read().generation:013x}"
    assert not found.pending


def test_an_operators_command_shows_at_once(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    commands.pause(settings, NAME, by="ann")
    (found,) = read_status(settings)
    assert found.phase == "paused"
    assert found.decision is not None
    assert found.decision.reason == "paused at 10% by ann"
    commands.rollback(settings, NAME)
    (found,) = read_status(settings)
    assert (found.phase, found.weight, found.requests) == ("rolled_back", 0, 0)


def test_an_experiment_that_is_over_shows_what_concluded_it(tmp_path: Path) -> None:
    goal = "goal: {metric: latency_mean, increase: false, planned_requests: 1000}"
    text = DOCUMENT.replace("steps: [10, 50, 100]", f"mode: experiment\n      steps: [50]\n      {goal}")
    subject, settings = _setup(tmp_path, text)
    serve_and_tick(subject, 40, good=100)
    (found,) = read_status(settings)
    assert (found.phase, found.weight, found.step, found.steps) == ("concluded", 5000, 1, 1)
    assert found.decision is not None
    assert (found.decision.kind, found.decision.cause) == ("complete", "undecided")
    assert "is neither significantly better nor worse after the planned 1000 requests" in found.decision.reason


def test_who_leads(tmp_path: Path) -> None:
    _, settings = _setup(tmp_path)
    lease = Lease(settings.state_folder)
    assert lease.acquire()
    try:
        assert read_status(settings)[0].leader
    finally:
        lease.release()


def test_a_refused_document_shows_what_is_remembered_and_why_it_is_refused(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    settings.config.write_text("nonsense")
    with pytest.raises(DocumentError):
        read_status(settings)
    settings.config.write_text(DOCUMENT)
    subject.tick()
    settings.config.write_text("nonsense")
    (found,) = read_status(settings)
    assert found.weights == {"model-a": 9000, "model-b": 1000}
    assert (found.phase, found.generation, found.steps) == ("progressing", None, 3)
    assert "experiments.yaml" in found.config_error
    settings.config.unlink()
    assert read_status(settings)[0].config_error
    subject.lose_states()
    with pytest.raises(StoreError):
        read_status(settings)


def test_damaged_state_shows_the_document_and_the_damage(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    subject.damage_states()
    (found,) = read_status(settings)
    assert (found.phase, found.weight) == ("unknown", 1000)
    assert "damaged" in found.state_error


def test_an_experiment_without_a_rollout_has_weights_only(tmp_path: Path) -> None:
    _, settings = _setup(tmp_path, DOCUMENT.split("    rollout:")[0])
    (found,) = read_status(settings)
    assert (found.phase, found.candidate, found.steps) == ("none", None, 0)
    assert found.weights == {"model-a": 10_000, "model-b": 0}


def test_envoys_that_were_rendered_from_another_document(tmp_path: Path) -> None:
    _, settings = _setup(tmp_path)
    now = parts.digests(FileStore(settings.config).read().document)
    old = now | {f"{NAME}/match": "old", "clusters": "old", "another/match": "old"}
    write_renderings(settings.state_folder, {"http://a": now, "http://b": old, "http://c": None})
    (found,) = read_status(settings)
    assert found.stale == {"http://b": (f"{NAME}/match", "clusters")}
    assert found.unknown == ("http://c",)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_list_of_envoys_only_hides_them(tmp_path: Path, content: str) -> None:
    _, settings = _setup(tmp_path)
    settings.state_folder.mkdir(parents=True)
    (settings.state_folder / FILE).write_text(content)
    (found,) = read_status(settings)
    assert (found.stale, found.unknown) == ({}, ())
