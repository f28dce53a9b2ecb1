"""The report itself, so that a drill that says nothing is seen."""

from __future__ import annotations

from tests.drills.report import Drill, lines


def test_report_shows_numbers_and_what_the_operator_read() -> None:
    drill = Drill(sent=1200, failed=1)
    drill.operator_reads("chat: rolled back", "")
    assert lines([("test_x.py::test_y", drill.to_json())]) == [
        "test_x.py::test_y    1,200 sent        1 failed        0 wrong",
        "    operator reads: chat: rolled back",
    ]
