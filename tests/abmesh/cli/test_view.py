"""The demo's view shows what matters, on a terminal and in a log."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from abmesh.cli.demo.scenarios import SCENARIOS, Outcome
from abmesh.cli.demo.users import Summary
from abmesh.cli.demo.view import DecisionLine, Picture, View, print_summary

PICTURE = Picture(
    seconds=12.0,
    stage="step 3 of 6: model-b at 25%",
    weights={"model-a": 75.0, "model-b": 25.0},
    seen={"model-a": Summary(300, 0, 150.4, 171.0), "model-b": Summary(100, 20, 140.0, math.nan)},
    decision="advance",
    reason="model-b passed 10%",
    requests=400,
)


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=130, color_system=None, legacy_windows=False), output


def test_on_a_terminal_the_panel_shows_weights_shares_errors_latencies_and_the_reason() -> None:
    console, output = _console(terminal=True)
    with View(console, SCENARIOS["good"]) as view:
        view.show(PICTURE)
    text = output.getvalue()
    for part in ("step 3 of 6", "25%", "75.0%", "20.0%", "150 ms", "171 ms", "model-b passed 10%"):
        assert part in text


def _line(number: int, kind: str) -> DecisionLine:
    return DecisionLine(f"id-{number}", 10.0 * number, kind, {"model-a": 75.0, "model-b": 25.0}, f"reason {number}")


@pytest.mark.parametrize("terminal", [False, True])
def test_every_decision_is_printed_once_and_pictures_are_not(terminal: bool) -> None:
    console, output = _console(terminal)
    decisions = [_line(1, "advance"), _line(2, "advance"), _line(3, "rollback")]
    with View(console, SCENARIOS["good"]) as view:
        for seen in range(4):
            view.show(PICTURE)
            view.show_decisions(decisions[:seen])
    lines = [line for line in output.getvalue().splitlines() if "reason " in line]
    assert [line.split(" s  ")[1].split()[0] for line in lines] == ["advance", "advance", "rollback"]
    assert "10.0 s  advance   model-a 75%, model-b 25%: reason 1" in lines[0]
    if not terminal:
        assert SCENARIOS["good"].story in output.getvalue().splitlines()[0]
        assert len(output.getvalue().splitlines()) == 4


def test_the_summary_shows_the_outcome_and_leaves_the_reason_to_the_decisions_line() -> None:
    console, output = _console(terminal=False)
    outcome = Outcome(
        scenario="errors",
        expected="rolled_back",
        outcome="rolled_back",
        passed=True,
        final_weights={"model-a": 100.0, "model-b": 0.0},
        requests=500,
        errors=20,
        seconds=12.3,
        decisions=[{"reason": "model-b at 25% does harm"}],
        variants={"model-a": {"requests": 400, "errors": 0}, "model-b": {"requests": 100, "errors": 20}},
    )
    print_summary(console, outcome)
    text = output.getvalue()
    assert "rolled back after 12 s, 500 requests, 20 errors; model-a 100%, model-b 0%" in text
    assert "model-b at 25% does harm" not in text


def test_the_summary_prints_the_report_unchanged_and_the_events() -> None:
    console, output = _console(terminal=False)
    report = "click_rate of model-b is better [for] power " + "x" * 150
    outcome = Outcome(
        scenario="finetune",
        expected="rolled_back",
        outcome="rolled_back",
        passed=True,
        final_weights={"model-a": 100.0, "model-b": 0.0},
        requests=500,
        errors=0,
        seconds=12.3,
        feedback={"click": 10, "refused": 1},
        told=report,
    )
    print_summary(console, outcome)
    assert report in output.getvalue().splitlines()
    assert "feedback events sent: 10 click, 1 refused" in output.getvalue()
