"""The worlds as data: what is asked can be missed, runs are reproducible, and simple worlds keep what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from abmesh.analysis.truth import Outage
from bench.simulations.outcome import Outcome
from bench.worlds import documents
from bench.worlds.playing import play_all, played
from bench.worlds.table import rows
from bench.worlds.world import Asked, Seen, World
from bench.worlds.worlds import USUAL, promoted, rolled_back, said, stuck, world, worlds
from tests.examples import others_in_soak

NAMES = [item.name for item in worlds()]
EVERY_FATE = [
    Seen(ending, cause, 60.0, 5.0, 1000, split_alarm=split, said=told, found=found)
    for ending, cause in (
        ("promoted", "last_step_passed"),
        ("rolled_back", "harmful"),
        ("undecided", "inconclusive"),
        ("concluded", "winner"),
        ("concluded", "undecided"),
        ("reported", "significant"),
    )
    for split in (False, True)
    for told in (False, True)
    for found in ((), ("error_rate", "latency_p95", "click_rate", "output_tokens_mean"))
]


def _kept(asked: Asked, seen: Sequence[Seen]) -> bool:
    hits = sum(map(asked.happened, seen))
    return Outcome("", asked.rule, "", len(seen), hits, asked.allowed, asked.wanted).kept


def test_worlds_have_names_of_their_own_and_ask_something_of_every_run() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for item in worlds():
        assert item.asked
        assert item.truths or item.events
        assert all(asked.allowed is not None or asked.wanted is not None for asked in item.asked)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_can_be_kept_and_can_be_missed(name: str) -> None:
    for asked in world(name).asked:
        verdicts = {_kept(asked, [fate] * world(name).runs) for fate in EVERY_FATE}
        assert verdicts == {True, False}, asked.rule


def test_the_shipped_guardrails_are_the_ones_that_are_played() -> None:
    shipped, mine = documents.shipped().rollout, documents.default().rollout
    assert shipped is not None
    assert mine is not None
    assert mine.guardrails == shipped.guardrails
    assert mine.stage.min_duration < shipped.stage.min_duration
    assert len(mine.steps) * mine.stage.min_duration < timedelta(hours=6)


def test_a_run_is_the_same_whatever_else_is_played_and_by_how_many_processes() -> None:
    subject = replace(world("hidden-candidate"), longest=timedelta(minutes=30))
    assert played(subject, 3, 7) == played(subject, 3, 7)
    assert played(subject, 3, 7) != played(subject, 4, 7)
    assert played(subject, 3, 7) != played(subject, 3, 8)


def test_fates_are_told_apart() -> None:
    back = Seen("rolled_back", "harmful", 30, 5, 100)
    on = Seen("promoted", "last_step_passed", 90, 100, 100)
    assert [rolled_back(back), promoted(back), stuck(back), said(back)] == [True, False, False, False]
    assert [rolled_back(on), promoted(on), stuck(on), said(on)] == [False, True, False, False]
    assert said(replace(on, said=True))


@pytest.mark.simulation
@pytest.mark.process
def test_processes_share_the_runs_and_change_nothing() -> None:
    told: list[str] = []
    two = play_all(["hidden-candidate"], 3, 7, 2, told.append)
    assert two == play_all(["hidden-candidate"], 3, 7, 1)
    assert len(told) == 1
    assert told[0].startswith("hidden-candidate: 3 rollouts, ")


OFTEN = ("equal", "control-fails-80-fast", "heavy-probe", "hidden-20", "doubled", "goal-50", "analyze-50", "segments")
"""Worlds that are played before every change."""


def _opposite(subject: World) -> World:
    """The same document and questions in a world where the answers are others."""
    if subject.events is not None:
        a, b = subject.events.control, subject.events.other
        return replace(subject, events=replace(subject.events, other=a if a != b else a + 0.1))
    equal = replace(USUAL, quantities=subject.truths[0].quantities, segments=subject.truths[0].segments)
    broken = replace(equal, candidate=Outage(0.4), latency_factor=2.0)
    split = tuple(replace(item, factor=1.0) for item in equal.quantities)
    if subject.name.startswith(("equal", "heavy", "control")):
        return replace(subject, truths=(broken,))
    if subject.name.startswith("goal") and not subject.name.endswith("equal"):
        return replace(subject, truths=(replace(equal, quantities=split),))
    if subject.name.endswith("equal"):
        item = equal.quantities[0]
        return replace(subject, truths=(replace(equal, quantities=(replace(item, factor=1.2),)),))
    if subject.segments:
        worse = tuple(replace(item, factor=1.5) for item in equal.quantities)
        return replace(subject, truths=(replace(broken, quantities=worse),))
    return replace(subject, truths=(equal,))


@pytest.mark.simulation
@pytest.mark.parametrize("name", others_in_soak(NAMES, OFTEN))
def test_in_the_opposite_world_what_is_asked_is_missed(name: str) -> None:
    subject = _opposite(world(name))
    seen = [played(subject, run, 1) for run in range(2)]
    assert not all(_kept(asked, seen * 20) for asked in subject.asked)


KEPT = ("equal", "equal-drift", "hidden-candidate", "doubled", "late")


@pytest.mark.simulation
@pytest.mark.parametrize("name", KEPT)
def test_in_a_few_runs_what_is_asked_is_kept(name: str) -> None:
    found = rows(play_all([name], 4, 11, 1))
    assert [row.outcome.rule for row in found if not row.outcome.kept] == []
