"""The demo's view shows what matters, on a terminal and in a log."""

from __future__ import annotations

import io
import math

from rich.console import Console

from cli.demo.scenarios import SCENARIOS, Outcome
from cli.demo.users import Summary
from cli.demo.view import Picture, View, print_summary

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


def test_without_a_terminal_every_decision_is_one_line_and_holds_are_none() -> None:
    console, output = _console(terminal=False)
    with View(console, SCENARIOS["good"]) as view:
        for decision in ("hold", "advance", "advance", "hold", "rollback"):
            view.show(Picture(**{**{name: getattr(PICTURE, name) for name in PICTURE.__slots__}, "decision": decision}))
    lines = output.getvalue().splitlines()
    assert SCENARIOS["good"].story in lines[0]
    assert [line.split()[2] for line in lines[1:]] == ["advance", "rollback"]


def test_the_summary_says_how_it_ended_and_why() -> None:
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
    assert "because: model-b at 25% does harm" in text
