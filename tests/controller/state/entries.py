"""Entries for tests of the journal."""

from __future__ import annotations

from typing import Any

from controller.records import Cause, JournalEntry, Kind, Phase, Stage
from tests.controller.support import START


def entry(entry_id: str, **changes: Any) -> JournalEntry:
    """An entry that is as small as can be."""
    fields: dict[str, Any] = {
        "id": entry_id,
        "at": START,
        "experiment": "chat",
        "actor": "controller",
        "kind": Kind.ADVANCE,
        "cause": Cause.PASSED,
        "reason": "because",
        "phase_before": Phase.PROGRESSING,
        "phase": Phase.PROGRESSING,
        "weights_before": {"a": 9000, "b": 1000},
        "weights_after": {"a": 5000, "b": 5000},
        "stage": Stage(id="s", weight=1000, started_at=START),
        "generation": "0123456789abc",
        "evidence": {"b": {"requests": 3}},
        **changes,
    }
    return JournalEntry(**fields)
