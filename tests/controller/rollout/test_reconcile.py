"""Whole rollouts with a clock of their own: what is decided, and what is written."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from abmesh.analysis.replay import replay
from abmesh.cli.json_records import status_json
from controller.records import Cause, Kind, Phase
from controller.rollout.commands import resume
from controller.rollout.status import read_status
from controller.settings import Settings
from tests.controller.support import DOCUMENT, ENVOY, NAME, Traffic, World, serve_and_tick, world


def test_a_good_candidate_takes_every_step_once_and_is_promoted(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 60)
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000), ("advance", 5000, 10_000)]
    assert subject.phase() is Phase.PROMOTED
    assert subject.journal()[-1].cause in (Cause.FINISHED, Cause.LAST_STEP_PASSED)
    assert [entry.kind for entry in subject.journal()].count(Kind.COMPLETE) == 1
    assert "# the old one" in (tmp_path / "experiments.yaml").read_text()


def test_every_stage_lasts_its_time_and_is_judged_on_its_own_evidence(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 60)
    advances = [entry for entry in subject.journal() if entry.kind in (Kind.ADVANCE, Kind.COMPLETE)]
    for previous, entry in pairwise(advances):
        assert entry.at - previous.at >= timedelta(seconds=60)
        # 12 ticks of 50 requests at most, less the settle time.
        assert 100 <= entry.evidence["model-b"]["requests"] <= 12 * 50


def test_errors_roll_back_at_once(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 16)
    assert subject.weight() == 5000
    serve_and_tick(subject, 5, good=25, bad=25)
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000), ("rollback", 5000, 0)]
    rollback = next(entry for entry in subject.journal() if entry.kind is Kind.ROLLBACK)
    assert rollback.at - subject.journal()[0].at < timedelta(seconds=100)
    assert "error_rate 50% over 50 requests in the last 5 s is significantly above its limit of 5%" in rollback.reason
    assert "emergency stop" in rollback.reason
    assert subject.phase() is Phase.ROLLED_BACK
    serve_and_tick(subject, 30)
    assert subject.weight() == 0


def test_slowness_rolls_back(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20, ms=800)
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]
    rollback = next(entry for entry in subject.journal() if entry.kind is Kind.ROLLBACK)
    assert "latency_p95" in rollback.reason
    assert "is significantly above its limit of 500 ms" in rollback.reason


def test_errors_before_the_stage_and_during_the_settle_time_are_no_evidence(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.traffic.serve("model-b", 1000, code=503)
    subject.tick()
    subject.traffic.serve("model-b", 1000, code=503)
    subject.tick(4)
    subject.traffic.serve("model-b", 1000, code=503)
    subject.tick(4)
    serve_and_tick(subject, 20)
    assert ("advance", 1000, 5000) in subject.moves()


def test_low_traffic_holds_and_then_times_out_with_a_word_about_it(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.tick()
    for _ in range(10):
        subject.traffic.serve("model-b", 1)
        subject.tick(60)
    assert subject.weight() == 1000
    assert subject.journal()[-1].cause is Cause.MIN_REQUESTS
    subject.tick(4000)
    assert (subject.weight(), subject.journal()[-1].cause) == (1000, Cause.TIMEOUT)


def test_a_document_that_says_so_rolls_back_on_timeout(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.replace("      guardrails:", "      on_timeout: rollback\n      guardrails:"))
    subject.tick()
    subject.tick(4000)
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]


def test_missing_envoys_hold_and_come_back_without_a_false_decision(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.envoys["http://other:9901"] = Traffic()
    serve_and_tick(subject, 5)
    subject.absent = {ENVOY}
    serve_and_tick(subject, 40)
    assert subject.weight() == 1000
    last = subject.journal()[-1]
    assert last.cause is Cause.MISSING_DATA
    assert f"1 of 2 Envoys answered; no answer from {ENVOY} (no answer within 2 s)" in last.reason
    assert last.sources["absent"] == {ENVOY: "no answer within 2 s"}
    subject.absent = set()
    subject.tick()
    assert subject.moves() == [("advance", 0, 1000), ("advance", 1000, 5000)]
    # Both Envoys' requests, also those of the one that was away.
    advance = [entry for entry in subject.journal() if entry.kind is Kind.ADVANCE][-1]
    assert advance.evidence["model-b"]["requests"] >= 40 * 100


def test_harm_seen_by_the_envoys_that_answer_rolls_back(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.envoys["http://other:9901"] = Traffic()
    serve_and_tick(subject, 5)
    subject.absent = {ENVOY}
    serve_and_tick(subject, 2, bad=50)
    assert subject.moves()[-1] == ("rollback", 1000, 0)


def test_a_restarted_envoy_makes_no_false_decision(tmp_path: Path) -> None:
    subject = world(tmp_path)
    for _ in range(10):
        serve_and_tick(subject, 3)
        subject.traffic.restart(subject.now)
    serve_and_tick(subject, 30)
    assert [kind for kind, *_ in subject.moves()] == ["advance"] * 3
    for entry in subject.journal():
        for outline in entry.evidence.values():
            assert all(value is None or value >= 0 for value in outline.values())


def test_a_restarted_controller_goes_on_in_the_same_stage_with_the_same_evidence(tmp_path: Path) -> None:
    def run(subject: World, *, restarting: bool) -> list[object]:
        for _ in range(60):
            serve_and_tick(subject, 1)
            if restarting:
                subject.restart()
        return [(entry.at, entry.kind, entry.evidence) for entry in subject.journal() if entry.kind is not Kind.HOLD]

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert run(world(tmp_path / "one"), restarting=False) == run(world(tmp_path / "two"), restarting=True)


def test_evidence_that_was_lost_is_collected_afresh(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 10)
    (subject.folder / "evidence" / f"{NAME}.bin").write_text("{")
    subject.restart()
    subject.tick()
    assert subject.weight() == 1000
    assert subject.journal()[-1].evidence["model-b"]["requests"] == 0
    serve_and_tick(subject, 5)
    assert subject.weight() == 5000


def test_without_users_on_the_control_only_absolute_limits_stay_in_force(tmp_path: Path) -> None:
    relative = DOCUMENT.replace("max: 500ms}", "max_increase: 20%, relative: true}")
    for name in ("relative", "absolute"):
        (tmp_path / name).mkdir()
    subject = world(tmp_path / "relative", relative)
    while subject.weight() < 10_000:
        serve_and_tick(subject, 1)
    serve_and_tick(subject, 60, ms=2000)
    assert subject.phase() is Phase.PROMOTED
    reasons = " ".join(entry.reason for entry in subject.journal())
    assert "latency_p95 cannot be compared: model-a no longer has users" in reasons
    subject = world(tmp_path / "absolute", DOCUMENT)
    while subject.weight() < 10_000:
        serve_and_tick(subject, 1)
    serve_and_tick(subject, 5, ms=2000)
    assert subject.moves()[-1] == ("rollback", 10_000, 0)


def test_holds_do_not_fill_the_journal(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.tick()
    for _ in range(300):
        subject.tick(1)
    assert 2 <= len(subject.journal()) <= 6


def test_harm_that_begins_late_in_a_long_stage_is_seen_within_a_minute(tmp_path: Path) -> None:
    patient = DOCUMENT.replace("min_duration: 60s, max_duration: 1h", "min_duration: 10h, max_duration: 11h")
    subject = world(tmp_path, patient)
    serve_and_tick(subject, 1, good=200)
    serve_and_tick(subject, 300, good=200, seconds=20)
    assert subject.weight() == 1000
    began = subject.now
    while subject.weight() == 1000 and subject.now - began < timedelta(minutes=10):
        serve_and_tick(subject, 1, bad=10)
    assert subject.moves()[-1] == ("rollback", 1000, 0)
    assert subject.now - began <= timedelta(seconds=60)
    rollback = next(entry for entry in subject.journal() if entry.kind is Kind.ROLLBACK)
    assert "in the last " in rollback.reason


def test_harm_that_pauses_keeps_the_weights_and_starts_afresh_when_resumed(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.replace("guardrails:", "on_harm: pause\n      guardrails:"))
    serve_and_tick(subject, 16)
    assert subject.weight() == 5000
    serve_and_tick(subject, 6, good=90, bad=10)
    assert (subject.weight(), subject.phase()) == (5000, Phase.PAUSED)
    entry = next(entry for entry in subject.journal() if entry.cause is Cause.PAUSED_FOR_HARM)
    assert (entry.kind, entry.phase_before, entry.phase) == (Kind.HOLD, Phase.PROGRESSING, Phase.PAUSED)
    assert [found["on_harm"] for found in entry.judgements] == ["pause", "pause"]
    serve_and_tick(subject, 10)
    assert subject.phase() is Phase.PAUSED
    assert [entry.phase for entry in subject.journal()].count(Phase.PAUSED) == 1 + sum(
        entry.phase_before is Phase.PAUSED for entry in subject.journal()
    )
    settings = Settings(config=tmp_path / "experiments.yaml", state_dir=tmp_path / "state")
    (status,) = read_status(settings, now=subject.now)
    assert status.decision is not None
    assert status.decision.cause is Cause.PAUSED_FOR_HARM
    resume(settings, NAME, now=subject.now)
    serve_and_tick(subject, 20)
    assert {item.differences for item in replay(subject.journal())} == {()}
    assert subject.moves()[-1] == ("advance", 5000, 10_000)


def test_the_emergency_stop_rolls_back_whatever_harm_does(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.replace("guardrails:", "on_harm: pause\n      guardrails:"))
    serve_and_tick(subject, 16)
    serve_and_tick(subject, 6, good=20, bad=80)
    assert subject.phase() is Phase.ROLLED_BACK


def test_what_only_watches_is_shown_and_lets_the_rollout_go_on(tmp_path: Path) -> None:
    subject = world(tmp_path, DOCUMENT.replace("max: 500ms}", "max: 500ms, dry_run: true}"))
    serve_and_tick(subject, 16, ms=800)
    assert subject.weight() == 5000
    serve_and_tick(subject, 4, ms=800)
    (status,) = read_status(
        Settings(config=tmp_path / "experiments.yaml", state_dir=tmp_path / "state"), now=subject.now
    )
    (remark,) = status.remarks
    assert (remark.about, remark.name, remark.verdict) == ("dry_run", "latency_p95 max 500ms", "harmful")
    assert "would act at" in remark.text
    found = [item for entry in subject.journal() for item in entry.judgements if item["on_harm"] == "report"]
    assert {item["verdict"] for item in found} >= {"harmful"}


def test_a_broken_control_is_said_first_everywhere(tmp_path: Path) -> None:
    subject = world(tmp_path)
    subject.tick()
    for _ in range(8):
        subject.traffic.serve("model-a", 300, code=503, ms=5)
        subject.traffic.serve("model-a", 100)
        subject.traffic.serve("model-b", 50)
        report = subject.tick()
    entry = subject.journal()[-1]
    assert entry.cause is Cause.CONTROL_BROKEN
    assert [(item["metric"], item["kind"], item["worse"]) for item in entry.control] == [
        ("error_rate", "brake", False),
        ("error_rate", "max", False),
    ]
    assert entry.reason.startswith("the control model-a is broken: error_rate 75%")
    assert report.outcomes[0].control_broken
    assert {item.differences for item in replay(subject.journal())} == {()}
    settings = Settings(config=tmp_path / "experiments.yaml", state_dir=tmp_path / "state")
    (status,) = read_status(settings, now=subject.now)
    assert [remark.about for remark in status.remarks] == ["control", "control"]
    shown = status_json(status)
    assert shown["control_broken"] is True
    assert shown["reason"].startswith("the control model-a is broken")
    assert subject.weight() == 1000
