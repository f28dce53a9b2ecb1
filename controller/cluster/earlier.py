"""What a stage is remembered by, from the journal: for a change whose answer was lost, or whose leader died after it.

Its entry holds all that the stage had counted, so nothing of it is lost. Pure but for the journal that it asks.
"""

from __future__ import annotations

from controller.codec.evidence import unpack
from controller.codec.inputs import evidence_text
from controller.decision.history import PastStage
from controller.state.ports import Recorder


def earlier_stage(journal: Recorder, experiment: str, decision: str) -> PastStage | None:
    """The stage that a decision of the controller has ended by a step; None if it was anything else.

    Args:
        journal: that has the decision.
        experiment: its name.
        decision: the id of the decision.

    Raises:
        StateError: the journal cannot be read, or the entry is damaged.
    """
    entry = journal.entry(experiment, decision)
    if entry is None or entry.actor != "controller" or entry.weights_before == entry.weights_after:
        return None
    text = evidence_text(entry)
    memory = (entry.inputs or {}).get("memory") or {}
    edges = {name: tuple(values) for name, values in (memory.get("edges") or {}).items()}
    return PastStage(entry.id, entry.weights_before, unpack(text), edges) if text else None
