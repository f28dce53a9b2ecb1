"""Holds: decisions that change nothing, and which of them the journal gets. Called by :mod:`.reconcile`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from abmesh.experiment.store import Snapshot, format_generation
from controller.codec.entries import decision_entry, refused_entry
from controller.decision.decide import Decided, Inputs
from controller.records import DecisionRecord, ExperimentState, JournalEntry, Phase
from controller.rollout.tick import Outcome, Tick, TickReport
from controller.state.pace import Pace
from controller.state.ports import Recorder
from controller.wording.reasons import reason

log = logging.getLogger("abmesh.controller")


class Holds:
    """Makes holds, and writes those down that are new or were last written long ago.

    Args:
        journal: records them.
        new_id: makes the ids of decisions.
    """

    def __init__(self, journal: Recorder, new_id: Callable[[], str]) -> None:
        self._journal = journal
        self._new_id = new_id
        self._pace = Pace()

    def forget(self) -> None:
        """Write the next hold of each experiment down, whatever was written before."""
        self._pace = Pace()

    def changed(self, entry: JournalEntry, phase: Phase, now: datetime) -> None:
        """Remember that a change was written down, which is as good as a hold of the same cause."""
        self._pace.written(entry.experiment, entry.kind, entry.cause, phase, now)

    def hold(self, snapshot: Snapshot, inputs: Inputs, decided: Decided) -> DecisionRecord:
        """Do nothing, and write that down if it is new or was last written long ago."""
        decision, name, now = decided.decision, inputs.experiment.name, inputs.now
        if not self._pace.due(name, decision.kind, decision.cause, decision.phase, now):
            text = reason(decision, decided.situation, now)
            return DecisionRecord(id=self._new_id(), kind=decision.kind, cause=decision.cause, reason=text, at=now)
        entry = decision_entry(self._new_id(), format_generation(snapshot.generation), inputs, decided)
        self._journal.append(entry, durable=False)
        self._pace.written(name, decision.kind, decision.cause, decision.phase, now)
        log.info("%s: hold: %s", name, entry.reason)
        return entry.decision

    def refused(self, states: Mapping[str, ExperimentState], error: str, tick: Tick) -> TickReport:
        """Hold every rollout under way: weights can only be written into a valid document."""
        outcomes = []
        for name, state in states.items():
            if state.phase.finished:
                continue
            entry = refused_entry(self._new_id(), name, state, error, tick.coverage, tick.now)
            if self._pace.due(name, entry.kind, entry.cause, entry.phase, tick.now):
                self._journal.append(entry, durable=False)
                self._pace.written(name, entry.kind, entry.cause, entry.phase, tick.now)
            outcomes.append(Outcome(name, state, state.weights, entry.decision))
        return TickReport(None, error, tuple(outcomes))
