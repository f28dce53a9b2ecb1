from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from abmesh.experiment.errors import DocumentError, RefusedError, StateError, UnknownName
from controller.decision.policy import Decision, Situation, apply_policy
from controller.records import Cause, Kind, Phase
from controller.rollout import commands
from controller.rollout.preview import Preview
from controller.settings import Settings
from tests.controller.support import DOCUMENT, NAME, World, serve, serve_and_tick, world


def _setup(folder: Path, text: str = DOCUMENT) -> tuple[World, Settings]:
    subject = world(folder, text)
    return subject, Settings(folder / "experiments.yaml", state_dir=subject.folder)


def _phase(subject: World) -> Phase:
    return subject.states.read().experiments[NAME].phase


def _edit(subject: World, candidate: int) -> None:
    weights = {"model-a": 10_000 - candidate, "model-b": candidate}
    subject.documents.write_weights(NAME, weights, based_on=subject.documents.read().generation)


def test_pause_holds_and_resume_starts_the_stage_afresh(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick(0)
    entry = commands.pause(settings, NAME, now=subject.now, by="ann")
    assert (entry.kind, entry.cause, entry.actor, entry.by) == (Kind.HOLD, Cause.OPERATOR, "operator", "ann")
    assert entry.reason == "paused at 10% by ann"
    serve(subject, 500)
    for _ in range(30):
        serve(subject, 50)
        subject.tick()
    assert (subject.weight(), _phase(subject)) == (1000, Phase.PAUSED)
    stage = subject.states.read().experiments[NAME].stage
    commands.resume(settings, NAME, now=subject.now)
    assert subject.states.read().experiments[NAME].stage.id != stage.id
    subject.tick()
    assert subject.weight() == 1000
    for _ in range(20):
        serve(subject, 50)
        subject.tick()
    assert subject.weight() == 5000


def test_a_paused_rollout_still_rolls_back_on_harm(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick(0)
    subject.tick(6)
    commands.pause(settings, NAME, now=subject.now)
    serve(subject, 500, code=503)
    subject.tick()
    assert (subject.weight(), _phase(subject)) == (0, Phase.ROLLED_BACK)


def test_the_commands_work_before_any_controller_has_run(tmp_path: Path) -> None:
    for name, command, weight, phase in (
        ("pause", commands.pause, 0, Phase.PAUSED),
        ("promote", commands.promote, 10_000, Phase.PROMOTED),
        ("rollback", commands.rollback, 0, Phase.ROLLED_BACK),
    ):
        (tmp_path / name).mkdir()
        subject, settings = _setup(tmp_path / name)
        command(settings, NAME, now=subject.now)
        assert (subject.weight(), _phase(subject)) == (weight, phase)
        assert subject.tick().failures == {}
        assert _phase(subject) is phase


def test_promote_gives_the_candidate_all_users_and_finishes(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    entry = commands.promote(settings, NAME, now=subject.now, by="ann")
    assert (entry.kind, entry.weights_before["model-b"], entry.weights_after["model-b"]) == ("complete", 1000, 10_000)
    assert (subject.weight(), _phase(subject)) == (10_000, Phase.PROMOTED)
    subject.tick()
    assert _phase(subject) is Phase.PROMOTED


def test_promote_by_one_step(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    for weight in (1000, 5000, 10_000):
        assert commands.promote(settings, NAME, now=subject.now, full=False).kind is Kind.ADVANCE
        assert (subject.weight(), _phase(subject)) == (weight, Phase.PROGRESSING)
    with pytest.raises(RefusedError, match="no step after 100%"):
        commands.promote(settings, NAME, now=subject.now, full=False)
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000), ("advance", 5000, 10_000)]


def test_rollback_gives_all_users_to_the_control_and_resume_starts_again(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    commands.rollback(settings, NAME, now=subject.now)
    assert (subject.weight(), _phase(subject)) == (0, Phase.ROLLED_BACK)
    subject.tick()
    assert subject.weight() == 0
    commands.resume(settings, NAME, now=subject.now)
    subject.tick()
    assert subject.weight() == 1000


@pytest.mark.parametrize(
    ("command", "weight", "phase"),
    [
        (commands.promote, 10_000, Phase.PROMOTED),
        (commands.rollback, 0, Phase.ROLLED_BACK),
        (commands.resume, 5000, Phase.PROGRESSING),
    ],
)
def test_a_concluded_experiment_keeps_its_split_until_a_command_changes_it(
    tmp_path: Path, command: Callable[..., object], weight: int, phase: Phase
) -> None:
    goal = "goal: {metric: latency_mean, increase: false, planned_requests: 1000}"
    text = DOCUMENT.replace("steps: [10, 50, 100]", f"mode: experiment\n      steps: [50]\n      {goal}")
    subject, settings = _setup(tmp_path, text)
    serve_and_tick(subject, 60, good=100)
    assert (subject.weight(), _phase(subject)) == (5000, Phase.CONCLUDED)
    command(settings, NAME, now=subject.now)
    serve_and_tick(subject, 2)
    assert (subject.weight(), _phase(subject)) == (weight, phase)


def test_resume_from_manual_continues_from_the_edited_weights_and_plan(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    _edit(subject, 3500)
    subject.tick()
    assert _phase(subject) is Phase.MANUAL
    path = settings.config
    path.write_text(path.read_text().replace("[10, 50, 100]", "[10, 40, 100]"))
    commands.resume(settings, NAME, now=subject.now)
    state = subject.states.read().experiments[NAME]
    assert (state.phase, state.stage.weight, state.steps) == (Phase.PROGRESSING, 3500, (1000, 4000, 10_000))
    for _ in range(20):
        serve(subject, 50)
        subject.tick()
    assert subject.weight() == 4000


def test_resume_of_an_edit_that_no_controller_has_seen_yet(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    _edit(subject, 3500)
    commands.resume(settings, NAME, now=subject.now)
    subject.tick()
    assert (subject.weight(), _phase(subject)) == (3500, Phase.PROGRESSING)


def test_pausing_does_not_accept_an_edit_that_no_controller_has_seen_yet(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    _edit(subject, 3500)
    with pytest.raises(RefusedError, match="nothing moves until abmesh resume"):
        commands.pause(settings, NAME, now=subject.now)
    subject.tick()
    assert (subject.weight(), _phase(subject)) == (3500, Phase.MANUAL)


def test_a_command_that_does_not_apply_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    with pytest.raises(RefusedError, match="no need to resume chat: it is progressing at 0%"):
        commands.resume(settings, NAME, now=subject.now)
    commands.pause(settings, NAME, now=subject.now)
    with pytest.raises(RefusedError, match="cannot pause chat: it is paused at 0%"):
        commands.pause(settings, NAME, now=subject.now)
    commands.rollback(settings, NAME, now=subject.now)
    with pytest.raises(RefusedError, match="cannot roll back chat: it is rolled back at 0%"):
        commands.rollback(settings, NAME, now=subject.now)
    commands.promote(settings, NAME, now=subject.now)
    before = subject.journal()
    with pytest.raises(RefusedError, match="cannot promote chat: it is promoted at 100%"):
        commands.promote(settings, NAME, now=subject.now)
    with pytest.raises(RefusedError, match="without --step"):
        commands.promote(settings, NAME, now=subject.now, full=False)
    assert subject.journal() == before


def test_without_a_rollout_there_is_nothing_to_operate(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path, DOCUMENT.split("    rollout:")[0])
    with pytest.raises(RefusedError, match="chat has no rollout"):
        commands.pause(settings, NAME, now=subject.now)


def test_an_unknown_experiment_is_named(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    with pytest.raises(UnknownName, match="chat"):
        commands.pause(settings, "chta", now=subject.now)


def test_a_refused_document_and_damaged_state_are_errors(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    subject.damage_states()
    with pytest.raises(StateError, match="damaged"):
        commands.rollback(settings, NAME, now=subject.now)
    for command in (commands.promote, commands.resume):
        with pytest.raises(StateError, match="damaged"):  # before anybody is asked about a state that is not there
            command(settings, NAME, now=subject.now, confirm=lambda _: pytest.fail("asked"))
    subject.lose_states()
    settings.config.write_text("nonsense")
    with pytest.raises(DocumentError):
        commands.rollback(settings, NAME, now=subject.now)


@pytest.mark.parametrize("command", [commands.promote, commands.resume])
def test_damaged_state_is_an_error_before_anybody_is_asked(tmp_path: Path, command: Callable[..., object]) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    subject.damage_states()
    asked: list[Preview] = []
    with pytest.raises(StateError, match="damaged"):
        command(settings, NAME, confirm=asked.append, now=subject.now)
    assert asked == []


def test_a_command_finishes_what_a_killed_controller_left_undone(tmp_path: Path) -> None:
    subject, settings = _setup(tmp_path)

    class KilledError(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controller.state.journal.Journal.append", lambda *a, **k: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            subject.tick()
    assert subject.states.read().experiments[NAME].intent is not None
    commands.pause(settings, NAME, now=subject.now)
    assert [(entry.kind, entry.actor) for entry in subject.journal()] == [
        (Kind.ADVANCE, "controller"),
        (Kind.HOLD, "operator"),
    ]
    assert (subject.weight(), _phase(subject)) == (1000, Phase.PAUSED)


def test_a_controller_respects_a_command_given_while_it_was_deciding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()
    subject.tick(6)
    serve(subject, 500)

    def deciding(situation: Situation, now: datetime) -> Decision:
        decision = apply_policy(situation, now)
        assert decision.kind is Kind.ADVANCE
        commands.pause(settings, NAME, now=subject.now)
        return decision

    with monkeypatch.context() as patch:
        patch.setattr("controller.decision.decide.apply_policy", deciding)
        report = subject.tick(60)
    assert report.superseded == (NAME,)
    assert report.failures == {}
    subject.tick(60)
    assert (subject.weight(), _phase(subject)) == (1000, Phase.PAUSED)


@pytest.mark.parametrize(
    ("command", "weight", "phase"),
    [
        (commands.pause, 1000, Phase.PAUSED),
        (commands.promote, 10_000, Phase.PROMOTED),
        (commands.rollback, 0, Phase.ROLLED_BACK),
    ],
)
def test_a_change_that_cannot_be_recorded_is_reported_as_pending_and_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., object], weight: int, phase: Phase
) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()

    def full(*_: object, **__: object) -> None:
        raise StateError("journal.jsonl: cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr("controller.state.journal.Journal.append", full)
        with pytest.raises(StateError, match=r"cannot be written; chat: the change .* by ann\) is pending"):
            command(settings, NAME, now=subject.now, by="ann")
    subject.tick()
    assert (subject.weight(), _phase(subject)) == (weight, phase)


def test_a_change_that_was_not_begun_is_not_reported_as_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, settings = _setup(tmp_path)
    subject.tick()

    def full(*_: object, **__: object) -> None:
        raise StateError("state.json: cannot be written")

    monkeypatch.setattr("controller.state.states.replace_file", full)
    with pytest.raises(StateError, match=r"^state\.json: cannot be written$"):
        commands.rollback(settings, NAME, now=subject.now)
