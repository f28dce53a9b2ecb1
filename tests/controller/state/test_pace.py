from __future__ import annotations

from datetime import timedelta

from controller.records import Cause, Kind, Phase
from controller.state.pace import HOLD_EVERY, Pace
from tests.controller.support import START


def test_holds_are_written_when_their_cause_changes_and_once_a_minute() -> None:
    pace = Pace()

    def due(seconds: float, cause: Cause) -> bool:
        now = START + timedelta(seconds=seconds)
        due = pace.due("chat", Kind.HOLD, cause, Phase.PROGRESSING, now)
        if due:
            pace.written("chat", Kind.HOLD, cause, Phase.PROGRESSING, now)
        return due

    assert due(0, Cause.SETTLING)
    assert not due(5, Cause.SETTLING)
    assert due(10, Cause.MIN_DURATION)
    assert not due(69, Cause.MIN_DURATION)
    assert due(10 + HOLD_EVERY.total_seconds(), Cause.MIN_DURATION)
    assert due(-1000, Cause.MIN_DURATION), "a clock that was set back must not silence it"
    assert pace.due("other", Kind.HOLD, Cause.MIN_DURATION, Phase.PROGRESSING, START)
