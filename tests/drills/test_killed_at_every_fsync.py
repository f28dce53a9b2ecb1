"""A controller is killed at every fsync and every rename of a change, one after the other, and started again.

Every step is taken once, state, document and journal agree, and the journal replays the same. The kill is a real one:
a forked process ends itself at the chosen call, without a chance to clear up.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from abmesh import exchange
from abmesh.experiment import saves
from abmesh.experiment.store import FileStore
from controller.records import Phase
from controller.rollout import commands
from controller.settings import Settings
from controller.state.journal import salvage
from tests.abmesh.cli.calls import call
from tests.controller.support import NAME, START, World, serve, world
from tests.drills.report import Drill

Move = tuple[str, int, int]

FIRST: Final[Move] = ("advance", 0, 1000)


@dataclass(frozen=True)
class Change:
    """A change that is interrupted.

    Attributes:
        prepare: brings a rollout to the moment before it.
        act: carries it out, by a controller's tick or an operator's command.
        moves: the journal afterwards.
        phase: of the rollout afterwards.
        again: whether an operator gives the command again if it had not begun.
    """

    prepare: Callable[[Path], World]
    act: Callable[[World], object]
    moves: list[Move]
    phase: Phase
    again: bool = False


def _at_10_percent(folder: Path) -> World:
    folder.mkdir()
    subject = world(folder)
    subject.tick(0)
    subject.tick(6)
    return subject


def _ready(folder: Path) -> World:
    """The next tick advances."""
    subject = _at_10_percent(folder)
    serve(subject, 200)
    subject.tick(10)
    serve(subject, 200)
    subject.now = START + timedelta(minutes=5)
    return subject


def _harmful(folder: Path) -> World:
    """The next tick rolls back."""
    subject = _ready(folder)
    subject.traffic.serve("model-b", 100, code=500)
    return subject


def _from_an_earlier_version(folder: Path) -> World:
    """The next tick finds the one file of all states, which earlier versions kept, and advances."""
    subject = _ready(folder)
    state = subject.states.read().experiments[NAME]
    subject.lose_states()
    old = {
        "version": 1,
        "revision": 3,
        "experiments": {NAME: state.model_dump(mode="json"), "gone": state.model_dump(mode="json")},
    }
    (subject.folder / "state.json").write_text(json.dumps(old))
    subject.restart()
    return subject


def _settings(subject: World) -> Settings:
    return Settings(subject.folder.parent / "experiments.yaml", subject.folder)


CHANGES: Final = {
    "advance": Change(_ready, lambda it: it.tick(0), [FIRST, ("advance", 1000, 5000)], Phase.PROGRESSING),
    "rollback": Change(_harmful, lambda it: it.tick(0), [FIRST, ("rollback", 1000, 0)], Phase.ROLLED_BACK),
    "promote": Change(
        _at_10_percent,
        lambda it: commands.promote(_settings(it), NAME, by="ann", now=it.now),
        [FIRST, ("complete", 1000, 10_000)],
        Phase.PROMOTED,
        again=True,
    ),
    "migration": Change(
        _from_an_earlier_version, lambda it: it.tick(0), [FIRST, ("advance", 1000, 5000)], Phase.PROGRESSING
    ),
}


@dataclass
class Failpoint:
    """Ends the process before or after the n-th fsync or rename; counts them all."""

    at: int = -1
    after: bool = False
    calls: list[str] = field(default_factory=list)

    def on(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            mine = len(self.calls) - 1 == self.at
            if mine and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    def install(self) -> None:
        os.fsync = self.on("fsync", os.fsync)
        os.replace = self.on("rename", os.replace)
        exchange.swap_names = self.on("swap", exchange.swap_names)


def _calls(change: Change, folder: Path) -> list[str]:
    """Every fsync and rename of an undisturbed change."""
    subject = change.prepare(folder)
    reader, writer = os.pipe()

    def counted() -> None:
        failpoint = Failpoint()
        failpoint.install()
        change.act(subject)
        os.write(writer, json.dumps(failpoint.calls).encode())

    assert _in_a_process(counted) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        calls: list[str] = json.loads(told.read())
    return calls


def _in_a_process(action: Callable[[], object]) -> int:
    """How a forked process ended: 0, 1 for an exception, or minus the signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads; the child runs none of them
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _copied(prepared: World, folder: Path) -> World:
    """The same rollout in another folder, with a controller that was just started."""
    shutil.copytree(prepared.folder.parent, folder)
    documents = FileStore(folder / "experiments.yaml")
    return World(folder / "state", documents, now=prepared.now, envoys=copy.deepcopy(prepared.envoys))


def _restart(subject: World, change: Change) -> None:
    """What a new process does with what was left, and an operator whose command had not begun."""
    assert isinstance(subject.documents, FileStore)
    subject.documents.recover()
    subject.restart()
    subject.tick(1)
    if change.again and subject.phase() is not change.phase:
        change.act(subject)
    subject.restart()
    subject.tick(1)


def _check(subject: World, change: Change, where: str) -> None:
    state = subject.states.read().experiments[NAME]
    weight = change.moves[-1][2]
    assert subject.moves() == change.moves, where
    assert (subject.weight(), state.weights["model-b"], state.stage.weight) == (weight, weight, weight), where
    assert (state.phase, state.intent) == (change.phase, None), where
    moved = [entry for entry in subject.journal() if entry.weights_before != entry.weights_after]
    assert state.stage.id == moved[-1].id, where
    assert len({entry.id for entry in subject.journal()}) == len(subject.journal()), where
    assert salvage(subject.folder / "journal.jsonl").damaged == (), where
    replayed = call("replay", str(subject.folder / "journal.jsonl"))
    assert replayed.code == 0, f"{where}: {replayed.out}{replayed.err}"
    beside = {path.name for path in subject.folder.parent.iterdir()}
    assert beside == {"experiments.yaml", ".experiments.yaml.lock", "state"}, where


@pytest.fixture(autouse=True)
def _recover_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "LEFT_SECONDS", 0.0)


@pytest.mark.parametrize("name", CHANGES)
def test_killed_before_every_one(tmp_path: Path, drill: Drill, name: str) -> None:
    change = CHANGES[name]
    calls = _calls(change, tmp_path / "counted")
    assert calls.count("swap") == 1
    assert calls.count("fsync") >= 10
    prepared = change.prepare(tmp_path / "prepared")
    for point, kind in enumerate(calls):
        _kill_and_check(prepared, change, tmp_path / f"{point}", Failpoint(point), f"before {kind} {point}")
    drill.operator_reads(f"{name}: killed before each of {len(calls)} fsyncs and renames; every step once")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CHANGES)
def test_killed_after_every_one_and_at_every_one_of_the_recovery(tmp_path: Path, drill: Drill, name: str) -> None:
    change, kills = CHANGES[name], 0
    calls = _calls(change, tmp_path / "counted")
    prepared = change.prepare(tmp_path / "prepared")
    for point, kind in enumerate(calls):
        for again in range(len(calls) + 10):
            where = f"after {kind} {point}, then at {again} of the recovery"
            folder = tmp_path / f"{point}-{again}"
            survived = _kill_and_check(prepared, change, folder, Failpoint(point, after=True), where, Failpoint(again))
            shutil.rmtree(folder)
            kills += 1
            if survived:
                break
    drill.operator_reads(f"{name}: killed {kills} times, in the change and again in its recovery; every step once")


def _kill_and_check(
    prepared: World, change: Change, folder: Path, first: Failpoint, where: str, second: Failpoint | None = None
) -> bool:
    """Kill a change, and its recovery if so wanted; whether the recovery ended before it could be killed."""
    subject, ended = _copied(prepared, folder), 0

    def killed(failpoint: Failpoint, action: Callable[[], object]) -> int:
        def run() -> None:
            failpoint.install()
            action()

        return _in_a_process(run)

    assert killed(first, lambda: change.act(subject)) == -signal.SIGKILL, where
    if second is not None:
        ended = killed(second, lambda: _restart(subject, change))
        assert ended in (0, -signal.SIGKILL), where
    _restart(subject, change)
    _check(subject, change, where)
    return ended == 0
