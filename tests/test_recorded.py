"""What earlier versions left on disk still loads, shows, explains and replays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import pytest

from abmesh.analysis.replay import replay
from controller.records import Cause
from controller.state.evidence import EvidenceStore
from controller.state.journal import read
from controller.state.states import StateStore
from tests.abmesh.cli.calls import call
from tests.paths import ROOT

VERSIONS: Final = ROOT / "tests" / "recorded"
FOLDERS: Final = sorted(path.parent for path in VERSIONS.glob("*/*/journal.jsonl"))


@pytest.fixture(params=FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one recorded state folder, with its document."""
    return Path(shutil.copytree(request.param, tmp_path / "state"))


def _places(folder: Path) -> tuple[str, ...]:
    return ("--config", str(folder / "experiments.yaml"), "--state", str(folder))


def test_there_are_recordings_of_several_endings() -> None:
    causes = {entry.cause for folder in FOLDERS for entry in read(folder / "journal.jsonl")}
    assert causes >= {
        Cause.STARTING,
        Cause.PASSED,
        Cause.LAST_STEP_PASSED,
        Cause.HARMFUL,
        Cause.INCONCLUSIVE,
        Cause.SAMPLE_RATIO,
        Cause.WINNER,
        Cause.LOSER,
        Cause.WEIGHTS_EDITED,
        Cause.MANUAL,
        Cause.PAUSED,
        Cause.OPERATOR,
    }


def test_every_decision_can_be_recomputed(recorded: Path) -> None:
    found = list(replay(read(recorded / "journal.jsonl")))
    assert [item.differences for item in found if item.differences] == []
    assert sum("of the rules" in item.skipped or not item.skipped for item in found) >= 4
    assert " 0 differ" in call("replay", str(recorded / "journal.jsonl")).out


def test_state_and_evidence_load_with_everything_that_was_kept(recorded: Path) -> None:
    state = StateStore(recorded).read().experiments["chat"]
    live = EvidenceStore(recorded).read("chat")
    assert live is not None
    assert live.stage == state.stage.id
    stored = {entry.id for entry in read(recorded / "journal.jsonl")}
    assert {stage.id for stage in live.history.past} <= stored
    assert all(stage.evidence for stage in live.history.past)
    if state.phase == "progressing":
        assert live.window is not None
        assert len(live.history.checkpoints) > 2


def test_the_state_moves_into_a_file_of_its_own_and_stays_the_same(recorded: Path) -> None:
    before = StateStore(recorded).read().get("chat")
    status = call("status", *_places(recorded), "--json").out
    assert StateStore(recorded).migrate()
    assert not (recorded / "state.json").exists()
    assert StateStore(recorded).read().get("chat") == before
    after = call("status", *_places(recorded), "--json").out
    assert {**json.loads(after), "stage_seconds": 0} == {**json.loads(status), "stage_seconds": 0}


def test_status_journal_explain_and_analyze_show_it(recorded: Path) -> None:
    status = json.loads(call("status", *_places(recorded), "--json").out)
    assert status["experiment"] == "chat"
    assert status["reason"]
    journal = call("journal", "chat", *_places(recorded))
    assert (journal.code, journal.err) == (0, "")
    explained = json.loads(call("explain", "chat", *_places(recorded), "--json").out)
    assert explained["guardrails"] or explained["goal"]
    analyzed = call("analyze", "chat", *_places(recorded))
    assert (analyzed.code, analyzed.err) == (0, "")


def test_a_hypothesis_that_the_first_version_named_in_a_sentence_keeps_its_peak() -> None:
    names: set[str] = set()
    for folder in (VERSIONS / "v0.1.0").iterdir():
        live = EvidenceStore(folder).read("chat")
        assert live is not None
        names |= live.history.peaks.keys()
    assert {"sample_ratio", "emergency_stop 0.2"} <= names
    assert not any(" are " in name or " as " in name for name in names)
