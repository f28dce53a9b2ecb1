"""A process that dies at any input or output: each step is taken exactly once, and the journal has it exactly once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from abmesh.experiment.errors import AbmeshError
from controller.records import Phase
from controller.state.transition import Change, SupersededError
from tests.controller.contract.subjects import Subject
from tests.controller.support import START, serve


class Crash(BaseException):
    """The process dies: nothing catches it."""


class Script:
    """Dies before or after the n-th input or output."""

    def __init__(self, die_at: int = -1, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._die_at, self._after = die_at, after

    def __call__(self, name: str, action: Callable[[], Any]) -> Any:
        index = len(self.calls)
        self.calls.append(name)
        if index == self._die_at and not self._after:
            raise Crash(name)
        try:
            return action()
        finally:
            if index == self._die_at:
                raise Crash(name)


def _ready_to_advance(subject: Subject) -> None:
    """The next tick moves the candidate from 10% to 50%."""
    subject.world.tick(0)
    subject.world.tick(6)
    serve(subject.world, 200)
    subject.world.tick(10)
    serve(subject.world, 200)
    subject.world.now = START.replace(minute=5)


@pytest.mark.parametrize("after", [False, True])
def test_every_step_is_taken_once_wherever_the_process_dies(new_subject: Callable[[], Subject], after: bool) -> None:
    subject = new_subject()
    _ready_to_advance(subject)
    script = Script()
    subject.each_step(script)
    subject.world.tick(0)
    points = len(script.calls)
    assert subject.world.weight() == 5000
    assert points >= 6
    for point in range(points):
        subject = new_subject()
        _ready_to_advance(subject)
        subject.each_step(Script(point, after=after))
        with pytest.raises(Crash):
            subject.world.tick(0)
        subject.healed()
        subject.world.tick(1)
        state = subject.states.read().experiments[subject.name]
        entries = subject.world.journal()
        where = f"died at {script.calls[point]}, {point}"
        assert subject.world.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)], where
        assert (subject.world.weight(), state.stage.weight, state.phase) == (5000, 5000, "progressing"), where
        assert state.intent is None, where
        moves = [entry for entry in entries if entry.weights_before != entry.weights_after]
        assert state.stage.id == moves[-1].id, where
        assert len({entry.id for entry in entries}) == len(entries), where


def test_a_plan_that_refuses_changes_nothing(subject: Subject) -> None:
    _ready_to_advance(subject)
    before = subject.states.read(), subject.world.journal()

    def refuse(*_: object) -> Change:
        raise SupersededError("the test says so")

    with pytest.raises(SupersededError):
        subject.transitions.change(subject.name, refuse, subject.world.now)
    assert (subject.states.read(), subject.world.journal()) == before


def test_a_state_is_put_only_over_the_one_that_was_seen(subject: Subject) -> None:
    _ready_to_advance(subject)
    state = subject.states.read().experiments[subject.name]
    paused = state.model_copy(update={"phase": Phase.PAUSED})
    with pytest.raises(SupersededError):
        subject.transitions.put(subject.name, None, paused)
    subject.transitions.put(subject.name, state, paused)
    assert subject.states.read().experiments[subject.name] == paused


def test_nothing_happens_while_nothing_can_be_written(subject: Subject) -> None:
    _ready_to_advance(subject)
    before = subject.states.read().experiments[subject.name].stage
    subject.break_writes()
    with contextlib.suppress(AbmeshError):
        subject.world.tick(0)
    subject.healed()
    assert subject.world.weight() == 1000
    assert subject.states.read().experiments[subject.name].stage == before
    subject.world.tick(0)
    assert subject.world.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)]
