"""Carries out changes of a rollout so that no crash leaves one half done: intent, weights, journal, commit.

A change takes four steps, each durable before the next:

1. The *intent* is written to the state: the weights before the change, the state after it, and its journal entry.
2. The weights are written to the document, by compare-and-swap.
3. The entry is appended to the journal, unless it is already there.
4. *Commit*: the state after the change replaces the intent.

After a crash, the next controller or command that finds an intent finishes it. If the document has the new weights, it
continues with step 3; if it has the old ones, with step 2. If it has any other weights, someone edited it in between:
the change is abandoned and the rollout turns manual.

A rollback for harm does not wait for the disk, nor for a lock that somebody keeps. If the state cannot be changed, or
the change before it cannot be finished, the document is written first, the state and the journal once they can be.

The lock on the state is held throughout, so the controller and an operator's command cannot interleave. Called by
:mod:`controller.rollout.reconcile` and :mod:`controller.rollout.commands`.
"""

from __future__ import annotations

import time
from datetime import datetime
from enum import Enum

from abmesh.experiment.errors import Conflict, StoreError
from controller.records import Cause, ExperimentState, Intent, JournalEntry, Kind, Phase, Stage
from controller.state.documents import Documents
from controller.state.journal import Journal
from controller.state.locks import LOCK_SECONDS
from controller.state.states import StateStore
from controller.state.transition import Change, Plan, SupersededError
from controller.wording.mishaps import abandoned

_ATTEMPTS = 100
"""Most attempts to write the document while others write to it; each failed attempt means that another write won."""

_PAUSE_SECONDS = 0.01
"""Between two attempts, so that somebody who is writing into the document comes to an end."""


class _Weights(Enum):
    """What happened to the document's weights."""

    THERE = "the document already had them"
    WRITTEN = "they were written"
    EDITED = "somebody else had written others"


class Committer:
    """Carries out changes to one document and one state folder.

    Args:
        states: the state of every rollout.
        journal: records changes.
        documents: keeps the document.
        lock_seconds: how long to wait for another process that changes the state.
    """

    def __init__(
        self, states: StateStore, journal: Journal, documents: Documents, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self._states = states
        self._journal = journal
        self._documents = documents
        self._lock_seconds = lock_seconds
        self._replacements: dict[str, tuple[str, ExperimentState]] = {}
        """By experiment: the entry id of the change that a rollback replaces, empty if none had begun; and the state
        with the rollback's intent."""

    def recover(self, name: str, now: datetime) -> ExperimentState | None:
        """Finish a change that a crash interrupted.

        Returns:
            The state after that; None if the experiment has none.

        Raises:
            AbmeshError: it cannot be finished now; the intent stays.
        """
        with self._states.locked(self._lock_seconds):
            return self._finish_pending(name, now)

    def change(self, name: str, plan: Plan, now: datetime) -> ExperimentState:
        """Plan a change and carry it out.

        Args:
            name: the experiment's name.
            plan: called with the document and the state, which has no intent.
            now: the time.

        Returns:
            The state after the change; ``manual`` if someone edited the weights at the same moment.

        Raises:
            AbmeshError: the change was not begun; or it was begun and cannot be finished now, so its intent stays.
        """
        with self._states.locked(self._lock_seconds):
            state = self._finish_pending(name, now)
            snapshot = self._documents.read()
            self._journal.keep_within(snapshot.document.journal)
            change = plan(snapshot, state)
            assert change.after.weights == change.entry.weights_after, "the entry records the weights that are written"
            intent = Intent(before=change.entry.weights_before, after=change.after, entry=change.entry)
            begun = change.before.model_copy(update={"intent": intent})
            self._states.write(name, begun)
            return self._carry_out(name, begun, intent, None)

    def roll_back_instead(self, name: str, pending: Intent, rollback: Change, now: datetime) -> ExperimentState:
        """Carry out a rollback in place of a change that cannot be finished now.

        Writes the document first. If the state or the journal cannot be written now, the rollback is kept in memory,
        and the next :meth:`recover` or :meth:`change` records it, so that nothing resumes the change that it replaced.

        Args:
            name: the experiment's name.
            pending: the change that cannot be finished.
            rollback: starts from the state that matches the document's current weights.
            now: the time.

        Raises:
            AbmeshError: the document, the state or the journal could not be written.
        """
        carried_out = rollback.before == pending.after
        intent = Intent(
            before=rollback.entry.weights_before,
            after=rollback.after,
            entry=rollback.entry,
            unrecorded=(*pending.unrecorded, pending.entry) if carried_out else pending.unrecorded,
        )
        self._write_weights(name, intent)
        self._replacements[name] = (pending.entry.id, rollback.before.model_copy(update={"intent": intent}))
        with self._states.locked(self._lock_seconds):
            state = self._finish_pending(name, now)
        assert state is not None
        return state

    def roll_back_unrecorded(self, name: str, rollback: Change) -> None:
        """Carry out a rollback although the state cannot be changed now; :meth:`roll_back_instead` with nothing begun.

        Raises:
            AbmeshError: the document could not be written.
        """
        intent = Intent(before=rollback.entry.weights_before, after=rollback.after, entry=rollback.entry)
        if self._write_weights(name, intent) is not _Weights.EDITED:
            self._replacements[name] = ("", rollback.before.model_copy(update={"intent": intent}))

    def repair(self, name: str) -> None:
        """Write a damaged state again as its previous copy has it.

        Raises:
            StateError: it cannot be written.
        """
        with self._states.locked(self._lock_seconds):
            states = self._states.read()
            if name in states.restored:
                self._states.write(name, states.experiments[name])

    def put(self, name: str, expected: ExperimentState | None, state: ExperimentState) -> None:
        """Store a state without a decision: the first one, or one with a corrected clock.

        Raises:
            SupersededError: the current state is not the expected one.
            StateError: the state cannot be stored.
        """
        with self._states.locked(self._lock_seconds):
            if self._states.read().get(name) != expected:
                raise SupersededError(f"the state of {name} changed in the meantime")
            self._states.write(name, state)

    def _finish_pending(self, name: str, now: datetime) -> ExperimentState | None:
        state = self._states.read().get(name)
        replaced, begun = self._replacements.get(name, ("", None))
        if begun is not None:
            pending = "" if state is None or state.intent is None else state.intent.entry.id
            if pending == replaced and (pending or state == begun.model_copy(update={"intent": None})):
                self._states.write(name, begun)
                state = begun
            del self._replacements[name]
        if state is None or state.intent is None:
            return state
        return self._carry_out(name, state, state.intent, now)

    def _carry_out(
        self, name: str, state: ExperimentState, intent: Intent, recovered_at: datetime | None
    ) -> ExperimentState:
        """Steps 2 to 4. During recovery, any of them may already be done."""
        present = self._write_weights(name, intent)
        if present is _Weights.EDITED:
            return self._abandon(name, state, intent)
        for entry in (*intent.unrecorded, intent.entry):
            self._record(entry, maybe_recorded=recovered_at is not None)
        after = intent.after
        if recovered_at is not None and present is _Weights.WRITTEN and after.stage.id == intent.entry.id:
            # The stage starts when its weights take effect, however long ago they were decided on.
            after = after.model_copy(update={"stage": after.stage.model_copy(update={"started_at": recovered_at})})
        self._states.write(name, after)
        return after

    def _write_weights(self, name: str, intent: Intent) -> _Weights:
        """Write the intended weights, unless the document has weights from neither before nor after the change."""
        for _ in range(_ATTEMPTS):
            snapshot = self._documents.read()
            present = snapshot.document.experiment(name).weights
            if present == intent.after.weights:
                return _Weights.THERE
            if present != intent.before:
                return _Weights.EDITED
            try:
                self._put_into_document(name, intent, snapshot.generation)
            except Conflict:
                time.sleep(_PAUSE_SECONDS)
                continue
            return _Weights.WRITTEN
        raise StoreError(
            f"cannot write the weights of {name}: the document changed {_ATTEMPTS} times while trying; retry later"
        )

    def _put_into_document(self, name: str, intent: Intent, generation: int) -> None:
        weights = intent.after.weights
        if intent.entry.kind is Kind.ROLLBACK:
            self._documents.write_weights(name, weights, based_on=generation, urgent=True)
        else:
            self._documents.write_weights(name, weights, based_on=generation)

    def _abandon(self, name: str, state: ExperimentState, intent: Intent) -> ExperimentState:
        weights = self._documents.read().document.experiment(name).weights
        entry = intent.entry.model_copy(
            update={
                "id": f"{intent.entry.id}-abandoned",
                "actor": "controller",
                "by": "",
                "kind": Kind.HOLD,
                "cause": Cause.WEIGHTS_EDITED,
                "reason": abandoned(intent.entry.kind),
                "phase": Phase.MANUAL,
                "weights_before": weights,
                "weights_after": weights,
            }
        )
        stage = Stage(id=entry.id, weight=weights.get(state.candidate, 0), started_at=entry.at)
        manual = state.model_copy(
            update={
                "phase": Phase.MANUAL,
                "weights": weights,
                "stage": stage,
                "decision": entry.decision,
                "intent": None,
            }
        )
        for line in (*intent.unrecorded, entry):
            self._record(line, maybe_recorded=True)
        self._states.write(name, manual)
        return manual

    def _record(self, entry: JournalEntry, *, maybe_recorded: bool) -> None:
        if not maybe_recorded or not self._journal.holds(entry.id):
            self._journal.append(entry, durable=True)
