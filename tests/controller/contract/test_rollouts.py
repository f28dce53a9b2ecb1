"""A rollout on any stores: the same steps, the same journal, and people always have the last word."""

from __future__ import annotations

from controller.records import Cause, Phase
from tests.controller.contract.subjects import Subject
from tests.controller.support import serve, serve_and_tick

ALL = [("advance", 0, 1000), ("advance", 1000, 5000), ("advance", 5000, 10_000)]


def _to(subject: Subject, weight: int) -> None:
    for _ in range(200):
        if subject.world.weight() == weight:
            return
        serve_and_tick(subject.world, 1)
    raise AssertionError(f"the candidate stays at {subject.world.weight()}")


def test_a_rollout_goes_to_the_end_step_by_step(subject: Subject) -> None:
    _to(subject, 10_000)
    serve_and_tick(subject.world, 40)
    assert subject.world.moves() == ALL
    assert subject.world.phase() is Phase.PROMOTED
    entries = subject.world.journal()
    assert len({entry.id for entry in entries}) == len(entries)
    assert all(entry.experiment == subject.name for entry in entries)


def test_harm_takes_all_users_off_the_candidate(subject: Subject) -> None:
    _to(subject, 1000)
    for _ in range(30):
        if subject.world.weight() == 0:
            break
        serve(subject.world, 50, code=503)
        subject.world.tick()
    assert (subject.world.weight(), subject.world.phase()) == (0, Phase.ROLLED_BACK)
    assert subject.world.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]


def test_a_process_that_starts_in_the_middle_goes_on_where_the_last_one_was(subject: Subject) -> None:
    _to(subject, 5000)
    before = subject.states.read().experiments[subject.name]
    subject.world.restart()
    subject.world.tick()
    after = subject.states.read().experiments[subject.name]
    assert after == before
    _to(subject, 10_000)
    assert subject.world.moves() == ALL


def test_evidence_of_a_stage_survives_a_restart(subject: Subject) -> None:
    _to(subject, 1000)
    serve_and_tick(subject.world, 8, seconds=5)  # longer than evidence waits to be written
    subject.world.restart()
    subject.world.tick()
    kept = subject.evidence.read(subject.name)
    assert kept is not None
    assert kept.window is not None
    assert kept.requests >= 100
    assert kept.stage == subject.states.read().experiments[subject.name].stage.id


def test_edited_weights_are_served_at_once_and_turn_the_rollout_manual(subject: Subject) -> None:
    _to(subject, 1000)
    subject.edit(30)
    assert subject.world.weight() == 3000
    serve_and_tick(subject.world, 30)
    assert (subject.world.weight(), subject.world.phase()) == (3000, Phase.MANUAL)
    state = subject.states.read().experiments[subject.name]
    assert state.decision is not None
    assert state.decision.cause is Cause.WEIGHTS_EDITED


def test_weights_that_were_edited_while_no_controller_ran_turn_it_manual_too(subject: Subject) -> None:
    _to(subject, 1000)
    subject.world.restart()
    subject.edit(30)
    subject.world.tick()
    assert (subject.world.weight(), subject.world.phase()) == (3000, Phase.MANUAL)


def test_operators_pause_resume_promote_and_roll_back(subject: Subject) -> None:
    _to(subject, 1000)
    subject.operate("pause")
    serve_and_tick(subject.world, 30)
    assert (subject.world.weight(), subject.world.phase()) == (1000, Phase.PAUSED)
    subject.operate("resume")
    _to(subject, 5000)
    subject.operate("promote")
    assert (subject.world.weight(), subject.world.phase()) == (10_000, Phase.PROMOTED)
    subject.operate("rollback")
    assert (subject.world.weight(), subject.world.phase()) == (0, Phase.ROLLED_BACK)
    actors = [entry.by for entry in subject.world.journal() if entry.actor == "operator"]
    assert actors == ["ada"] * 4
