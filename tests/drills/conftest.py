"""Gives a drill its report, and prints all reports when the tests are over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drills.report import PROPERTY, Drill, lines


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Iterator[Drill]:
    """The report of this drill; it is printed whether the drill passes or fails."""
    report = Drill()
    yield report
    request.node.user_properties.append((PROPERTY, report.to_json()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = {
        found.nodeid: told
        for outcome in ("", "error")  # of the fixture's end, where a drill that passed or failed gives its report
        for found in terminalreporter.getreports(outcome)
        for name, told in getattr(found, "user_properties", ())
        if name == PROPERTY
    }
    if reports:
        terminalreporter.section("drills")
        for line in lines([(nodeid.removeprefix("tests/drills/"), told) for nodeid, told in reports.items()]):
            terminalreporter.line(line)
