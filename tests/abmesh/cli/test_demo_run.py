"""How the demo ends, with a stack that starts nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from abmesh.analysis.records import AnalysisReport, ComparedVariant, Estimate, Finding, MetricReport, ReportedMetric
from abmesh.cli.demo import report as demo_report
from abmesh.cli.demo import run as demo_run
from abmesh.cli.demo.scenarios import CANDIDATE, CONTROL, LANES, SCENARIOS, Outcome
from abmesh.cli.demo.users import Population
from abmesh.cli.main import run
from abmesh.experiment.codec import parse
from abmesh.inference.numbers import Interval
from controller.settings import Settings
from tests.controller.support import DOCUMENT, serve, serve_and_tick, world


class _Stack:
    """Interrupts the demo as soon as it waits for anything."""

    url = admin = server_metrics = controller_url = "http://x"
    config = state = Path("x")

    def __init__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)


def _outcome(passed: bool) -> Outcome:
    return Outcome(
        scenario="good",
        expected="promoted",
        outcome="promoted",
        passed=passed,
        final_weights={},
        requests=1,
        errors=0,
        seconds=1.0,
        decisions=[],
        variants={},
    )


def _demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, watch: Any) -> int:
    monkeypatch.setattr(demo_run, "Stack", _Stack)
    monkeypatch.setattr(demo_run, "_watch", watch)
    monkeypatch.setattr(sys, "argv", ["abmesh", "demo", "good", "--keep"])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    try:
        run()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_interrupting_a_kept_demo_ends_it_with_the_code_of_its_outcome(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: bool, code: int
) -> None:
    async def watch(*_: object) -> Outcome:
        return _outcome(passed)

    assert _demo(monkeypatch, tmp_path, watch) == code
    assert not list(tmp_path.iterdir())


def test_a_kept_demo_prints_commands_that_show_its_decisions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def watch(*_: object) -> Outcome:
        return _outcome(passed=True)

    assert _demo(monkeypatch, tmp_path, watch) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for command in ("status", "explain chat-model", "analyze chat-model"):
        assert f"abmesh {command} --config x --state x" in lines
    assert f"abmesh replay {Path('x') / 'journal.jsonl'}" in lines


def test_every_decision_that_moved_or_ended_the_rollout_is_read_from_the_journal(tmp_path: Path) -> None:
    subject = world(tmp_path)
    decisions = demo_run.Decisions(subject.folder / "journal.jsonl", subject.now)
    assert decisions.read() == []
    # Two decisions between two reads: neither is missed.
    serve_and_tick(subject, 30)
    serve_and_tick(subject, 30)
    lines = decisions.read()
    assert [item.kind for item in lines] == ["advance", "advance", "advance", "complete"]
    assert [item.weights["model-b"] for item in lines] == [10, 50, 100, 100]
    assert [item.seconds for item in lines] == sorted(item.seconds for item in lines)
    assert lines[0].seconds == 5
    assert len({item.id for item in lines}) == 4
    assert decisions.read() is lines


@pytest.mark.parametrize("harm", [True, False])
def test_a_rollback_that_only_names_the_metric_is_not_the_harm_that_was_expected(tmp_path: Path, harm: bool) -> None:
    text = DOCUMENT.replace("      guardrails:", "      on_timeout: rollback\n      guardrails:")
    subject = world(tmp_path, text)
    subject.tick()
    for _ in range(10):
        serve(subject, 95)
        subject.traffic.serve("model-b", 50 if harm else 5, ms=600)
        subject.tick()
    subject.tick(4000)
    settings = Settings(tmp_path / "experiments.yaml", state_dir=subject.folder)
    outcome = demo_run._outcome(SCENARIOS["slow"], settings, Population("http://x"), 1.0, "")
    assert outcome.outcome == "rolled_back"
    assert "latency_p95" in outcome.decisions[-1]["reason"]
    assert outcome.passed is harm
    if not harm:
        assert "expected harm to latency_p95, found: model-b at 10% exceeded" in outcome.problem


def test_interrupting_a_demo_before_its_outcome_is_known_ends_it_with_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def watch(*_: object) -> Outcome:
        await asyncio.Event().wait()
        return _outcome(passed=True)

    assert _demo(monkeypatch, tmp_path, watch) == 130


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_document_and_feedback_of_every_scenario_match(name: str) -> None:
    scenario = SCENARIOS[name]
    clusters = "clusters:\n  model-a: {host: 127.0.0.1, port: 1}\n  model-b: {host: 127.0.0.1, port: 2}\n"
    experiment = parse(scenario.document + clusters, "demo.yaml").experiment(demo_run.EXPERIMENT)
    assert [variant.name for variant in experiment.variants] == [CONTROL, CANDIDATE]
    assert experiment.segments is not None
    for by_segment in scenario.feedback.values():
        assert set(by_segment) == set(experiment.segments.values)
        for by_event in by_segment.values():
            assert set(by_event) <= {event.name for event in experiment.events}
    assert set(scenario.reported) <= set(experiment.metrics)
    guarded = [] if experiment.rollout is None else [rail.metric for rail in experiment.rollout.guardrails]
    assert scenario.because_of is None or scenario.because_of in guarded


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_every_scenario_runs_in_either_lane(name: str) -> None:
    for lane in LANES:
        scenario = SCENARIOS[name].in_lane(lane)
        assert parse(scenario.document, "demo.yaml").experiment(demo_run.EXPERIMENT).lane == lane
        assert scenario.is_native == (lane == "native")


def test_the_fine_tuned_model_matches_its_story() -> None:
    """220 ms against 150 ms, and 1.9% clicks against 2.0%: more from power users, fewer from casual ones."""
    scenario = SCENARIOS["finetune"]
    assert (scenario.control.latency_ms, scenario.candidate.latency_ms) == (150, 220)
    power = 0.3 * 4 / (0.3 * 4 + 0.7)
    clicks = {
        variant: {segment: events["click"] for segment, events in by_segment.items()}
        for variant, by_segment in scenario.feedback.items()
    }
    over_all = {variant: power * rates["power"] + (1 - power) * rates["casual"] for variant, rates in clicks.items()}
    assert over_all == pytest.approx({CONTROL: 0.020, CANDIDATE: 0.019}, abs=2e-4)
    assert clicks[CANDIDATE]["power"] > clicks[CONTROL]["power"]
    assert clicks[CANDIDATE]["casual"] < clicks[CONTROL]["casual"]


def _report(verdict: float, segments: int) -> AnalysisReport:
    """On one metric, significantly more or less on the new model."""
    estimate = Estimate(verdict, Interval(verdict, verdict))
    finding = Finding("at any look", estimate, estimate, 0.001, 0.001, True, "a method")
    comparison = ComparedVariant(CANDIDATE, "", (finding,))
    parts = [replace(comparison, segment=f"s{number}") for number in range(segments)]
    metric = MetricReport(ReportedMetric("latency_p50", "quantile", "ms"), [], [comparison], parts)
    return AnalysisReport("chat-model", CONTROL, 0.05, 1, [metric])


@pytest.mark.parametrize(
    ("report", "wrong"),
    [
        (_report(70, 2), ""),
        (_report(70, 0), "the report has no latency_p50 by segment"),
        (_report(-70, 2), "expected latency_p50 to be higher, found lower"),
        (replace(_report(70, 2), metrics=[]), "the report has no latency_p50 by segment"),
    ],
)
def test_a_report_that_differs_from_the_scenario_is_a_problem(report: AnalysisReport, wrong: str) -> None:
    scenario = replace(SCENARIOS["finetune"], reported={"latency_p50": "higher"})
    assert demo_report.mismatch(report, scenario) == wrong


@pytest.mark.parametrize(
    ("planted", "wrong"),
    [
        ({"s0": "higher", "s1": "higher"}, ""),
        ({"s1": "lower"}, "expected latency_p50 of s1 to be lower, found higher"),
        ({"s2": "higher"}, "expected latency_p50 of s2 to be higher, found nothing"),
    ],
)
def test_a_report_must_not_contradict_what_was_planted_in_a_segment(planted: dict[str, str], wrong: str) -> None:
    scenario = replace(SCENARIOS["finetune"], reported={"latency_p50": ""}, by_segment={"latency_p50": planted})
    assert demo_report.mismatch(_report(70, 2), scenario) == wrong


def test_a_segment_that_is_undecided_contradicts_nothing() -> None:
    report = _report(70, 2)
    findings = [replace(finding, significant=False) for finding in report.metrics[0].segments[0].findings]
    part = replace(report.metrics[0].segments[0], findings=tuple(findings))
    report = replace(report, metrics=[replace(report.metrics[0], segments=[part])])
    assert part.verdict == "undecided"
    scenario = replace(SCENARIOS["finetune"], reported={"latency_p50": ""}, by_segment={"latency_p50": {"s0": "lower"}})
    assert demo_report.mismatch(report, scenario) == ""


def test_a_scenario_whose_report_cannot_be_made_has_not_passed(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(DOCUMENT.replace("name: chat", "name: chat-model"))
    settings = Settings(path, state_dir=tmp_path / "state")
    outcome = demo_report.make_report(SCENARIOS["finetune"], demo_run.EXPERIMENT, settings)
    assert outcome == (
        None,
        "there is no report: nothing was counted for chat-model yet; `abmesh status` shows whether a controller runs",
    )
    assert demo_report.make_report(SCENARIOS["good"], demo_run.EXPERIMENT, settings) == (None, "")
