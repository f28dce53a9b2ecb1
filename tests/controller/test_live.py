from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controller.evidence.counts import NOTHING, Counts
from controller.evidence.window import Reading, Window
from controller.live import Live, LiveStore
from controller.model import Cause, DecisionRecord, Kind
from tests.controller.support import ENVOY, START

CONTROL = Counts({("model-a", 1, 200): 900}, {("model-a", 1): 9000}, {("model-a", 0, 10.0, 1.0): 900})
BOTH = Counts(
    {**CONTROL.requests, ("model-b", 1, 200): 100},
    {**CONTROL.duration_ms, ("model-b", 1): 3},
    {**CONTROL.bins, ("model-b", 0, 10.5, 0.1): 100},
)
LIVE = Live(
    "stage",
    Window(
        START, BOTH, {ENVOY: Reading(START + timedelta(seconds=5), 3600.0, BOTH), "b": Reading(START, None, NOTHING)}
    ),
    DecisionRecord(id="d", kind=Kind.HOLD, cause=Cause.MIN_REQUESTS, reason="so", at=START),
    100,
)


@pytest.mark.parametrize("live", [LIVE, Live("stage")])
def test_it_comes_back_as_it_was_written(tmp_path: Path, live: Live) -> None:
    LiveStore(tmp_path / "new").write("chat", live)
    assert LiveStore(tmp_path / "new").read("chat") == live


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "x"}'])
def test_a_damaged_file_is_nothing(tmp_path: Path, text: str) -> None:
    store = LiveStore(tmp_path)
    assert store.read("chat") is None
    store.write("chat", LIVE)
    (tmp_path / "evidence" / "chat.json").write_text(text)
    assert store.read("chat") is None
