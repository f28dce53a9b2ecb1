from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from controller.records import Cause
from controller.rollout import commands
from controller.settings import Settings
from tests.abmesh.cli.calls import Called, call, refused
from tests.controller.support import DOCUMENT, NAME, World, serve, serve_and_tick, world

RELATIVE = DOCUMENT.replace("max: 500ms}", "max_increase: 20%, relative: true}")


def _explain(subject: World, *arguments: str) -> Called:
    config = subject.folder.parent / "experiments.yaml"
    return call("explain", NAME, *arguments, "--config", str(config), "--state", str(subject.folder))


def _json(subject: World, *arguments: str) -> dict[str, Any]:
    called = _explain(subject, "--json", *arguments)
    assert called.code == 0, called
    found: dict[str, Any] = json.loads(called.out)
    return found


def test_every_guardrail_of_the_last_decision_is_explained_with_its_limits_and_formula(tmp_path: Path) -> None:
    subject = world(tmp_path, RELATIVE)
    serve_and_tick(subject, 14, good=70)
    called = _explain(subject)
    assert called.code == 0, called
    for text in (
        "hold: model-b at 50% has run",
        "error_rate max 5%: healthy",
        "latency_p95 max_increase 20% of the control: ",
        ", at any look",
        "; health: E ",
        "S errors of N requests",
        "sample ratio: requests are split as the weights promise: p ",
        "how certain a decision must be:",
        "alpha 0.05: a candidate that keeps its limits is rolled back with at most this probability",
        "emergency stop at 10% errors",
    ):
        assert text in called.out, text
    values = re.search(r"value is within ([\d.]+)% to ([\d.]+)%", called.out)
    assert values is not None
    assert float(values[1]) <= 0 < float(values[2]) < 5


def test_a_guardrail_per_user_is_explained_with_both_values(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.replace("max: 5%}", "max: 5%, per: user}"))
    serve_and_tick(subject, 14, good=70)
    called = _explain(subject)
    assert called.code == 0, called
    for text in (
        "error_rate per user max 5%: ",
        "  a typical user has 0%, within 0% to ",
        " slices of users; all requests together have 0%",
        "in each slice of users; slices weigh as their requests, but none more than the median slice",
        "a guardrail per user needs 50 of what it is over, and 10 slices of users",
    ):
        assert text in called.out, text
    errors, latency = _json(subject)["guardrails"]
    assert latency["typical"] is None
    assert errors["typical_lower"] <= errors["typical"]["value"] <= errors["typical_upper"] < 0.2
    assert errors["typical_text"] in called.out
    assert (errors["typical"]["apart"], errors["typical"]["left_out"]) == (False, 0)


def test_it_says_how_old_its_numbers_are_and_what_shows_the_latest(tmp_path: Path) -> None:
    subject = world(tmp_path, RELATIVE)
    serve_and_tick(subject, 14, good=70)
    entry = next(item for item in subject.journal() if item.id == _json(subject)["id"])
    note = f"These are the numbers of {entry.at:%H:%M:%S}; a lasting hold is recorded every 10 minutes. `abmesh status`"
    assert note in _explain(subject).out
    assert note not in _explain(subject, "--id", entry.id).out


def test_its_json_has_the_same_numbers_as_the_journal(tmp_path: Path) -> None:
    subject = world(tmp_path, RELATIVE)
    serve_and_tick(subject, 14, good=70)
    found = _json(subject)
    entry = next(item for item in subject.journal() if item.id == found["id"])
    assert (found["decision"], found["cause"], found["reason"]) == (entry.kind, entry.cause, entry.reason)
    for account, judgement in zip(found["guardrails"], entry.judgements, strict=True):
        assert {name: account[name] for name in judgement} == judgement
        assert account["formula"]
        assert "lower" in account
    assert found["guardrails"][0]["lower"] == 0
    assert found["guardrails"][0]["upper"] < 0.05
    assert (found["brake"], found["goal"], found["sample_ratio"]["alarm"]) == (None, None, False)


def test_a_finished_rollout_explains_what_finished_it_and_says_what_came_since(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 5)
    serve_and_tick(subject, 5, good=25, bad=25)
    entries = subject.journal()
    assert entries[-1].cause is Cause.FINISHED
    called = _explain(subject)
    assert "rollback: model-b at 10% is harmful" in called.out
    assert "\nemergency stop: error_rate 50%" in called.out
    assert "error_rate max 5%: harmful" in called.out
    assert "since then: hold: model-b was rolled back" in called.out


def test_any_entry_can_be_asked_for_by_its_id(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 40)
    passed = [entry for entry in subject.journal() if entry.cause is Cause.PASSED]
    for entry in passed:
        assert _json(subject, "--id", entry.id)["id"] == entry.id
        assert entry.reason in _explain(subject, "--id", entry.id).out
    first = subject.journal()[0]
    assert "the rollout of model-b starts at 10%" in _explain(subject, "--id", first.id).out
    refused(_explain(subject, "--id", "nonsense"), 1, "no entry nonsense about chat; abmesh journal --json lists them")


def test_a_split_that_is_off_is_explained(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 3)
    for _ in range(12):
        subject.traffic.serve("model-b", 100)
        subject.tick()
    assert subject.journal()[-1].cause is Cause.SAMPLE_RATIO
    called = _explain(subject)
    assert "sample ratio: requests are not split as the weights promise" in called.out
    assert _json(subject)["sample_ratio"]["alarm"] is True


def test_a_persons_command_has_only_its_reason(tmp_path: Path) -> None:
    subject = world(tmp_path)
    settings = Settings(tmp_path / "experiments.yaml", state_dir=subject.folder)
    entry = commands.pause(settings, NAME, now=subject.now, by="ann")
    assert "paused at 0% by ann" in _explain(subject).out
    assert _json(subject, "--id", entry.id)["reason"] == "paused at 0% by ann"


def test_an_experiments_goal_is_explained(tmp_path: Path) -> None:
    goal = "goal: {metric: error_rate, increase: false, planned_requests: 5000}"
    subject = world(
        tmp_path, DOCUMENT.replace("steps: [10, 50, 100]", f"mode: experiment\n      steps: [50]\n      {goal}")
    )
    subject.tick()
    for _ in range(14):
        serve(subject, 50)
        subject.tick()
    called = _explain(subject)
    assert "\ngoal: open\n" in called.out
    assert "decided at any look, at most 5000 requests of the candidate" in called.out
    assert _json(subject)["goal"]["metric"] == "error_rate"


def test_without_a_decision_it_says_so_and_unknown_names_are_named(tmp_path: Path) -> None:
    subject = world(tmp_path)
    refused(_explain(subject), 1, "no decision about chat has been recorded yet; is a controller running?")
    config, state = str(tmp_path / "experiments.yaml"), str(subject.folder)
    refused(call("explain", "chta", "--config", config, "--state", state), 1, "no experiment named 'chta'")


def _without_ends_of_stages(subject: World, change: str = "") -> Path:
    path = subject.folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["cause"] != "passed") + change)
    return path


@pytest.mark.parametrize("change", ["nonsense", ""])
def test_an_earlier_stages_evidence_that_is_missing_is_said(tmp_path: Path, change: str) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    _without_ends_of_stages(subject, change)
    (subject.folder / "evidence" / f"{NAME}.bin").unlink()
    called = _explain(subject)
    assert called.code == 1
    assert "the evidence of an earlier stage is missing from this journal" in called.err
    assert "removed" not in called.err


def test_the_current_rollout_is_explained_even_if_the_file_with_its_earlier_stages_was_removed(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    whole = _explain(subject)
    _without_ends_of_stages(subject)
    assert _explain(subject) == whole, "the controller keeps their evidence beside the journal"
    assert whole.code == 0
    (subject.folder / "evidence" / f"{NAME}.bin").unlink()
    (subject.folder / "journal.000002.jsonl").write_text("")
    assert "older files of the journal were removed" in _explain(subject).err


WATCHED = DOCUMENT.replace("max: 500ms}", "max: 500ms, dry_run: true}").replace(
    "      guardrails:",
    "      goal: {metric: latency_mean}\n      secondary_goals: [{metric: error_rate}]\n"
    "      checks: [{name: memory, prometheus: up, max: 1}]\n      guardrails:",
)


def test_what_only_watches_secondary_goals_and_checks_are_explained_and_shown(tmp_path: Path) -> None:
    subject = world(tmp_path, WATCHED)
    serve_and_tick(subject, 20, good=70, ms=800)
    told = _explain(subject).out
    for text in (
        "latency_p95 max 500ms, only watched (dry_run): harmful",
        "would act at",
        "secondary goal error_rate: open",
        "corrected for 2 goals (Holm)",
        "check memory (outside of alpha) has no answer: it has not been asked yet",
        "checks memory (hold): thresholds on other people's numbers, outside of alpha",
    ):
        assert text in told, text
    found = _json(subject)
    assert found["cause"] == Cause.CHECK_UNANSWERED
    assert [item["metric"] for item in found["secondary_goals"]] == ["error_rate"]
    assert [(item["name"], item["verdict"]) for item in found["checks"]] == [("memory", "unanswered")]
    shown = call("status", "--config", str(tmp_path / "experiments.yaml"), "--state", str(subject.folder)).out
    folded = " ".join(shown.split())
    for text in (
        "chat: watched only: latency_p95 max 500ms: harmful: ",
        "chat: secondary goal error_rate: open: ",
        "chat: check memory (outside of alpha) has no answer: it has not been asked yet",
    ):
        assert text in folded, text


def test_a_broken_control_is_explained_and_shown_first(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.tick()
    for _ in range(8):
        subject.traffic.serve("model-a", 300, code=503)
        subject.traffic.serve("model-a", 100)
        subject.traffic.serve("model-b", 50)
        subject.tick()
    told = _explain(subject).out
    assert told.splitlines()[0].partition("  ")[2].startswith("chat  hold: the control model-a is broken: ")
    assert "\nthe control is broken: error_rate 75%" in told
    assert len(_json(subject)["control"]) == 2
    shown = call("status", "--config", str(tmp_path / "experiments.yaml"), "--state", str(subject.folder)).out
    assert "chat: the control is broken: error_rate 75%" in " ".join(shown.split())
