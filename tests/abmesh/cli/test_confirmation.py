"""What promote and resume show and refuse, without a process: the drills have a real candidate and a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.experiment.errors import RefusedError
from abmesh.experiment.store import FileStore
from controller.records import Phase
from controller.rollout import commands
from controller.rollout.preview import Preview
from controller.settings import Settings
from controller.state.states import StateStore
from tests.abmesh.cli.calls import call
from tests.controller.support import DOCUMENT, NAME, serve_and_tick, world


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rollout at its first step, judged."""
    monkeypatch.chdir(tmp_path)
    for name in ("ABMESH_CONFIG", "ABMESH_STATE", "ABMESH_WARMUP"):
        monkeypatch.delenv(name, raising=False)
    serve_and_tick(world(tmp_path, DOCUMENT), 5, good=40)
    return tmp_path


def _weight(folder: Path) -> int:
    return FileStore(folder / "experiments.yaml").read().document.experiment(NAME).weights["model-b"]


def test_it_shows_phase_last_decision_and_every_verdict_before_it_asks(folder: Path) -> None:
    result = call("promote", NAME, "--despite-probe", "--state", "state")
    assert result.code == 1
    shown = result.err.splitlines()
    assert shown[0] == "chat: progressing, model-b at 10%"
    assert shown[1].startswith("  last decision, ")
    assert shown[2].startswith("  on what was counted until 2026-11-22 12:00:25 UTC")
    assert "error_rate 0% over 120 requests" in shown[3]
    assert "latency_p95" in shown[4]
    assert shown[5] == "  afterwards: model-b is at 100%"
    assert "probe: model-b cannot be asked: there is no warm-up listener" in shown[6]
    assert shown[7].startswith("abmesh: abmesh promote asks before it acts, and there is no terminal")
    assert result.out == ""
    assert _weight(folder) == 1000


def test_guardrails_of_one_metric_that_has_no_data_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    second = "{metric: error_rate, max_increase: 1%}"
    subject = world(tmp_path / "two", DOCUMENT.replace("{metric: latency_p95, max: 500ms}", second))
    for _ in range(5):
        for traffic in subject.envoys.values():
            traffic.serve("model-a", 100)
        subject.tick(5)
    config = subject.folder.parent / "experiments.yaml"
    shown = call("promote", NAME, "--config", str(config), "--state", str(subject.folder)).err
    assert shown.count("there is no data on error_rate of model-b yet") == 1


@pytest.mark.parametrize("phase", [Phase.CONCLUDED, Phase.MANUAL, Phase.PAUSED])
def test_the_verdicts_that_a_waiting_rollout_ended_with_are_shown(folder: Path, phase: Phase) -> None:
    states = StateStore(folder / "state")
    states.write(NAME, states.read().experiments[NAME].model_copy(update={"phase": phase}))
    assert "error_rate 0% over 120 requests" in call("promote", NAME, "--state", "state").err


def test_a_candidate_that_cannot_be_asked_is_refused_even_with_yes(folder: Path) -> None:
    result = call("promote", NAME, "--yes", "--state", "state")
    assert result.code == 1
    assert "model-b cannot be asked" in result.err.splitlines()[-1]
    assert "go on with --despite-probe" in result.err
    assert _weight(folder) == 1000


def test_a_step_says_where_it_leads(folder: Path) -> None:
    result = call("promote", NAME, "--step", "--yes", "--despite-probe", "--reason", "as planned", "--state", "state")
    assert result.code == 0
    assert "afterwards: model-b is at 50%" in result.err
    assert result.out.startswith("chat: promoted from 10% to 50% by ")
    assert ": as planned (" in result.out
    assert _weight(folder) == 5000


@pytest.mark.parametrize("command", ["pause", "resume", "promote", "rollback"])
@pytest.mark.parametrize(
    ("text", "says"), [("x" * 501, "501 characters"), ("a\x1b[2J", "character 2 is not printable")]
)
def test_a_reason_that_the_journal_may_not_keep_is_refused(folder: Path, command: str, text: str, says: str) -> None:
    result = call(command, NAME, "--reason", text, "--state", "state")
    assert result.code == 2
    assert result.err.startswith("abmesh: --reason")
    assert says in result.err
    assert _weight(folder) == 1000


def test_a_rollout_that_changes_while_somebody_looks_is_left_alone(folder: Path) -> None:
    settings = Settings(folder / "experiments.yaml", folder / "state")

    def meanwhile(_: Preview) -> None:
        commands.rollback(settings, NAME)

    with pytest.raises(RefusedError, match="has changed since it was shown, so nothing was done"):
        commands.promote(settings, NAME, confirm=meanwhile)
    assert _weight(folder) == 0
