"""Changes of a rollout that no crash can tear: intent, weights, journal, commit.

A change is carried out in four steps, each durable before the next:

1. The *intent* goes into the state: the weights it starts from, the state it leads to, its journal entry.
2. The document gets its weights, by compare-and-swap.
3. The journal gets its entry, unless it has it.
4. *Commit*: the state it leads to replaces the intent.

Whoever finds an intent, after a crash, carries on: the document has the new weights (go on with 3), or still the old
ones (2), or others: then a person edited it in between, the change is abandoned and the rollout is theirs.

A rollback for harm does not wait for the disk: if a change before it cannot be finished, the rollback replaces it, the
document first and the records when they can be written.

The lock on the state is held throughout, so that the controller and an operator's command never interleave. Called by
:mod:`controller.rollout.reconcile` and :mod:`controller.rollout.commands`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from abmesh.experiment.errors import Conflict, StateError, StoreError
from abmesh.experiment.store import Snapshot
from controller.records import Cause, ExperimentState, Intent, JournalEntry, Kind, Phase, Stage
from controller.state.documents import Documents
from controller.state.journal import Journal
from controller.state.states import StateStore
from controller.wording.reasons import abandoned

_ATTEMPTS = 100
"""How often a write is tried while others write to the same document; each failure means that another succeeded."""


class SupersededError(StateError):
    """The state or the document changed while a decision was made; nothing was done, and it is to be made again."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done.

    Attributes:
        before: the state that it starts from, without an intent.
        after: the state that it leads to, without an intent; its weights are those to write.
        entry: for the journal; ``weights_before`` are the document's present ones.
    """

    before: ExperimentState
    after: ExperimentState
    entry: JournalEntry


class _Weights(Enum):
    """What became of the document's weights."""

    THERE = "they were there already"
    WRITTEN = "they were written"
    EDITED = "a person had written others"


Plan = Callable[[Snapshot, ExperimentState | None], Change]
"""Makes a change from the document and the state as they are under the lock, or raises."""


class Committer:
    """Carries out changes on one state folder and one document."""

    def __init__(self, states: StateStore, journal: Journal, documents: Documents) -> None:
        self._states = states
        self._journal = journal
        self._documents = documents
        self._instead: dict[str, tuple[str, ExperimentState]] = {}
        """By experiment: the entry's id of a change that cannot be finished, and the rollback begun in its place."""

    def recover(self, name: str, now: datetime) -> ExperimentState | None:
        """Finish what a crash left undone; the state after that, or None if there is none.

        Raises:
            AbmeshError: it cannot be finished now; the intent stays.
        """
        with self._states.locked():
            return self._finished(name, now)

    def change(self, name: str, plan: Plan, now: datetime) -> ExperimentState:
        """Make and carry out a change.

        Args:
            name: the experiment's.
            plan: called with the document and the state, which has no intent.
            now: the time.

        Returns:
            The state after it, which is ``manual`` if a person edited the weights in the same instant.

        Raises:
            AbmeshError: it was not begun; or it was, and could not be finished now, so that its intent stays.
        """
        with self._states.locked():
            state = self._finished(name, now)
            change = plan(self._documents.read(), state)
            assert change.after.weights == change.entry.weights_after, "a change writes what it says"
            intent = Intent(before=change.entry.weights_before, after=change.after, entry=change.entry)
            begun = change.before.model_copy(update={"intent": intent})
            self._states.write(name, begun)
            return self._carry_out(name, begun, intent, None)

    def roll_back_instead(self, name: str, pending: Intent, rollback: Change, now: datetime) -> ExperimentState:
        """Carry out a rollback in place of a change that cannot be finished now.

        The document comes first and needs no record. If the records cannot be kept now, the rollback is remembered
        here and recorded by the next :meth:`recover` or :meth:`change`, so that the change before it is not taken up
        again.

        Args:
            name: the experiment's.
            pending: the change that cannot be finished.
            rollback: from the state that the document's present weights belong to.
            now: the time.

        Raises:
            AbmeshError: the document could not be written, or the records could not.
        """
        carried_out = rollback.before == pending.after
        intent = Intent(
            before=rollback.entry.weights_before,
            after=rollback.after,
            entry=rollback.entry,
            unrecorded=(*pending.unrecorded, pending.entry) if carried_out else pending.unrecorded,
        )
        self._write_weights(name, intent)
        self._instead[name] = (pending.entry.id, rollback.before.model_copy(update={"intent": intent}))
        with self._states.locked():
            state = self._finished(name, now)
        assert state is not None
        return state

    def put(self, name: str, expected: ExperimentState | None, state: ExperimentState) -> None:
        """Keep a state that is no decision: a first one, or a corrected clock.

        Raises:
            SupersededError: the present state is not the expected one.
            StateError: it cannot be kept.
        """
        with self._states.locked():
            if self._states.read().experiments.get(name) != expected:
                raise SupersededError(f"the state of {name} changed in between")
            self._states.write(name, state)

    def _finished(self, name: str, now: datetime) -> ExperimentState | None:
        state = self._states.read().experiments.get(name)
        replaced, begun = self._instead.get(name, ("", None))
        if begun is not None:
            if state is not None and state.intent is not None and state.intent.entry.id == replaced:
                self._states.write(name, begun)
                state = begun
            del self._instead[name]
        if state is None or state.intent is None:
            return state
        return self._carry_out(name, state, state.intent, now)

    def _carry_out(
        self, name: str, state: ExperimentState, intent: Intent, recovered_at: datetime | None
    ) -> ExperimentState:
        """Steps 2 to 4; an intent that is being recovered may be at any of them."""
        present = self._write_weights(name, intent)
        if present is _Weights.EDITED:
            return self._abandon(name, state, intent)
        for entry in (*intent.unrecorded, intent.entry):
            self._record(entry, perhaps_there=recovered_at is not None)
        after = intent.after
        if recovered_at is not None and present is _Weights.WRITTEN and after.stage.id == intent.entry.id:
            # The stage's weights are in force only now, however long ago they were decided on.
            after = after.model_copy(update={"stage": after.stage.model_copy(update={"started_at": recovered_at})})
        self._states.write(name, after)
        return after

    def _write_weights(self, name: str, intent: Intent) -> _Weights:
        """Give the document the intended weights, unless it has neither these nor those before."""
        for _ in range(_ATTEMPTS):
            snapshot = self._documents.read()
            present = snapshot.document.experiment(name).weights
            if present == intent.after.weights:
                return _Weights.THERE
            if present != intent.before:
                return _Weights.EDITED
            try:
                self._documents.write_weights(name, intent.after.weights, based_on=snapshot.generation)
            except Conflict:
                continue
            return _Weights.WRITTEN
        raise StoreError(
            f"the weights of {name} could not be written: the document changed {_ATTEMPTS} times meanwhile"
        )

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
            self._record(line, perhaps_there=True)
        self._states.write(name, manual)
        return manual

    def _record(self, entry: JournalEntry, *, perhaps_there: bool) -> None:
        if not perhaps_there or not self._journal.holds(entry.id):
            self._journal.append(entry, durable=True)
