from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from abmesh.analysis.replay import Replayed, replay
from abmesh.experiment.errors import StateError
from controller.codec.evidence import pack, unpack
from controller.codec.inputs import load_inputs
from controller.records import Cause, JournalEntry, Kind
from controller.rollout import commands
from controller.settings import Settings
from controller.state.journal import read
from tests.controller.support import DOCUMENT, ENVOY, NAME, World, serve_and_tick, world

RELATIVE = DOCUMENT.replace("max: 500ms}", "max_increase: 20%, relative: true}").replace(
    "      guardrails:", "      goal: {metric: latency_mean, increase: false}\n      guardrails:"
)
EXPERIMENT = (
    DOCUMENT.replace("steps: [10, 50, 100]", "mode: experiment\n      steps: [50]")
    .replace(
        "      guardrails:",
        "      goal: {metric: error_rate, increase: false, planned_requests: 5000, GOAL}\n      guardrails:",
    )
    .replace("min_duration: 60s", "min_duration: 10s")
    .replace("max: 5%", "max: 20%")  # which the control keeps
)


def _same(entries: list[JournalEntry]) -> int:
    """How many came out the same; all that were recomputed must."""
    found = list(replay(entries))
    for item in found:
        assert item.differences == (), (item.entry.kind, item.differences)
    return sum(not item.skipped for item in found)


def _rollout(folder: Path, text: str = RELATIVE) -> World:
    """A rollout of every step, an Envoy that is away for a while, two restarts, and then harm in the last stage."""
    subject = world(folder, text)
    for tick in range(70):
        subject.absent = {ENVOY} if tick in (5, 6) else set()
        if tick % 23 == 22:
            subject.restart()
        serve_and_tick(subject, 1, good=70)
    return subject


def test_every_decision_of_a_rollout_comes_out_as_it_was(tmp_path: Path) -> None:
    subject = _rollout(tmp_path)
    entries = subject.journal()
    assert {entry.kind for entry in entries} == {Kind.ADVANCE, Kind.HOLD, Kind.COMPLETE}
    assert len([entry for entry in entries if entry.judgements]) > 5
    assert _same(entries) == len(entries)


def test_so_does_a_rollback(tmp_path: Path) -> None:
    subject = world(tmp_path, RELATIVE)
    serve_and_tick(subject, 20, good=70)
    serve_and_tick(subject, 5, good=20, bad=30)
    entries = subject.journal()
    assert entries[-1].cause in (Cause.FINISHED, Cause.HARMFUL)
    assert any(entry.kind is Kind.ROLLBACK for entry in entries)
    assert _same(entries) == len(entries)


@pytest.mark.parametrize("goal", ["design: anytime", "design: group_sequential, looks: 4"])
def test_so_does_an_experiment_with_its_looks(tmp_path: Path, goal: str) -> None:
    subject = world(tmp_path, EXPERIMENT.replace("GOAL", goal))
    for _ in range(60):
        weight = subject.weight()
        subject.traffic.serve("model-a", 90)
        subject.traffic.serve("model-a", 10, code=503)
        if weight:
            subject.traffic.serve("model-b", 99)
            subject.traffic.serve("model-b", 1, code=503)
        subject.tick()
    entries = subject.journal()
    assert Cause.WINNER in {entry.cause for entry in entries}
    assert _same(entries) == len(entries)


def test_a_persons_commands_are_left_out_and_what_follows_is_recomputed(tmp_path: Path) -> None:
    subject = world(tmp_path)
    settings = Settings(tmp_path / "experiments.yaml", state_dir=subject.folder)
    serve_and_tick(subject, 5)
    commands.pause(settings, NAME, now=subject.now)
    serve_and_tick(subject, 3)
    commands.resume(settings, NAME, now=subject.now)
    serve_and_tick(subject, 20)
    found = list(replay(subject.journal()))
    assert [item.skipped for item in found if item.skipped] == ["an operator's command"] * 2
    assert _same(subject.journal()) == len(found) - 2


def test_a_hold_without_inputs_is_left_out(tmp_path: Path) -> None:
    entries = _rollout(tmp_path).journal()
    old = next(entry for entry in entries if entry.kind is Kind.HOLD).model_copy(update={"inputs": None})
    assert [item.skipped for item in replay([old])] == ["recorded without inputs, by an earlier version"]


@pytest.mark.parametrize(
    "disguise",
    [{}, {"cause": Cause.DOCUMENT_REFUSED}, {"id": "x-abandoned"}, {"actor": "operator"}, {"kind": Kind.HOLD}],
)
def test_a_decision_that_moved_users_and_lost_its_inputs_is_found_whatever_it_calls_itself(
    tmp_path: Path, disguise: dict[str, Any]
) -> None:
    entries = world_of_one_advance(tmp_path).journal()
    advance = next(entry for entry in entries if entry.cause is Cause.PASSED)
    (found,) = replay([advance.model_copy(update={"inputs": None, **disguise})])
    assert found.differences == ("inputs: missing, although the decision moved users or ended the rollout",)


def test_a_decision_attributed_to_an_operator_is_recomputed_unless_it_is_a_command(tmp_path: Path) -> None:
    entries = world_of_one_advance(tmp_path).journal()
    advance = next(entry for entry in entries if entry.cause is Cause.PASSED)
    (found,) = replay([advance.model_copy(update={"actor": "operator"})])
    assert found.differences == ("actor: recorded operator, recomputed controller",)


def _change(entry: JournalEntry, change: Callable[[dict[str, Any]], object]) -> JournalEntry:
    plain = json.loads(entry.model_dump_json())
    change(plain)
    return JournalEntry.model_validate(plain)


def _put(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain.__setitem__(name, value)


def _other_evidence(plain: dict[str, Any]) -> None:
    evidence: Mapping[str, Any] = unpack(plain["inputs"]["evidence"])
    plain["inputs"]["evidence"] = pack({**evidence, "model-b": evidence["model-a"]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_put("kind", "complete"), "kind: recorded complete, recomputed advance"),
        (_put("cause", "starting"), "cause: recorded starting, recomputed passed"),
        (_put("weights_after", {"model-a": 0, "model-b": 10_000}), "weights_after: recorded"),
        (lambda plain: plain["judgements"][0].__setitem__("value", 0.01), "judgements: recorded"),
        (lambda plain: plain["evidence"]["model-b"].__setitem__("requests", 1), "evidence: recorded"),
        (lambda plain: plain["balance"].__setitem__("p", 0.5), "balance: recorded"),
        (lambda plain: plain["balance"].pop("p"), "balance: recorded"),
        (lambda plain: plain.pop("judgements"), "judgements: recorded nothing"),
        (lambda plain: plain["judgements"].clear(), "judgements: recorded"),
        (lambda plain: plain["inputs"].__setitem__("envoys", 2), "sources: recorded"),
        (_other_evidence, "evidence: recorded"),
        (lambda plain: plain["inputs"].__setitem__("evidence", "nonsense"), "packed evidence is damaged"),
        (lambda plain: plain["inputs"].__setitem__("now", "never"), "the inputs of .* are damaged: now: "),
    ],
)
def test_what_was_changed_in_the_journal_is_found(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    entries = world_of_one_advance(tmp_path).journal()
    advance = next(entry for entry in entries if entry.cause is Cause.PASSED)
    changed = [_change(entry, change) if entry.id == advance.id else entry for entry in entries]
    found: dict[str, Replayed] = {item.entry.id: item for item in replay(changed)}
    assert re.search(says, " ".join(found[advance.id].differences))
    others = [item for entry_id, item in found.items() if entry_id != advance.id and item.entry.at < advance.at]
    assert all(item.differences == () for item in others)


def world_of_one_advance(folder: Path) -> World:
    subject = world(folder)
    serve_and_tick(subject, 16)
    assert subject.weight() == 5000
    return subject


def test_evidence_of_an_earlier_stage_that_is_missing_is_said(tmp_path: Path) -> None:
    entries = _rollout(tmp_path).journal()
    passed = next(entry for entry in entries if entry.cause is Cause.PASSED)
    found = list(replay([entry for entry in entries if entry.id != passed.id]))
    wanted = f"the evidence of an earlier stage is missing from this journal: entry {passed.id}"
    assert any(wanted in item.differences for item in found)
    with pytest.raises(StateError, match="is missing from this journal"):
        load_inputs(entries[-1], {})


def test_a_journal_on_disk_comes_back_the_same(tmp_path: Path) -> None:
    subject = _rollout(tmp_path)
    path = subject.folder / "journal.jsonl"
    assert _same(read(path)) == len(path.read_text().splitlines())
    # Nothing but the inputs is needed: entries keep no evidence of earlier stages twice.
    for entry in read(path):
        assert entry.inputs is not None
        assert all(stage["evidence"] == "" for stage in entry.inputs["memory"]["past"])
