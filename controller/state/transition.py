"""The interface to a change of a rollout: what makes it durable, all of it or nothing.

:class:`controller.rollout.commit.Committer` does it with files, in four steps; in a cluster one patch of an
Experiment's status does it (:mod:`controller.cluster.transitions`). One set of contract tests holds both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from abmesh.experiment.errors import StateError
from abmesh.experiment.store import Snapshot
from controller.records import ExperimentState, Intent, JournalEntry


class SupersededError(StateError):
    """The state or the document changed while a decision was made. Nothing was done; decide again."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to carry out.

    Attributes:
        before: the state before it, without an intent.
        after: the state after it, without an intent; its weights are the ones to write.
        entry: the journal entry; its ``weights_before`` are the document's current weights.
        request: id of the request in the cluster that it answers, which is kept with the change, so that no request is
            carried out twice; empty if there is none.
    """

    before: ExperimentState
    after: ExperimentState
    entry: JournalEntry
    request: str = ""


Plan = Callable[[Snapshot, ExperimentState | None], Change]
"""Makes a change from the document and the state as nobody else can change them meanwhile. May raise to refuse it."""


class Transitions(Protocol):
    """Carries out changes of rollouts."""

    def recover(self, name: str, now: datetime) -> ExperimentState | None:
        """Finish a change that a crash interrupted.

        Returns:
            The state after that; None if the experiment has none.

        Raises:
            AbmeshError: it cannot be finished now; the intent stays.
        """

    def change(self, name: str, plan: Plan, now: datetime) -> ExperimentState:
        """Plan a change and carry it out.

        Args:
            name: the experiment's name.
            plan: called with the document and the state, which has no intent.
            now: the time.

        Returns:
            The state after the change; ``manual`` if someone edited the weights at the same moment.

        Raises:
            SupersededError: it was not begun, because of somebody else's; decide again.
            AbmeshError: it was not begun; or it was begun and cannot be finished now.
        """

    def put(self, name: str, expected: ExperimentState | None, state: ExperimentState) -> None:
        """Store a state without a decision: the first one, or one with a corrected clock.

        Raises:
            SupersededError: the current state is not the expected one.
            StateError: the state cannot be stored.
        """

    def repair(self, name: str) -> None:
        """Write a damaged state again as its previous copy has it.

        Raises:
            StateError: it cannot be written.
        """

    def roll_back_instead(self, name: str, pending: Intent, rollback: Change, now: datetime) -> ExperimentState:
        """Carry out a rollback in place of a change that cannot be finished now.

        Raises:
            AbmeshError: it could not be written.
        """

    def roll_back_unrecorded(self, name: str, rollback: Change) -> None:
        """Carry out a rollback although its record cannot be written now.

        Raises:
            AbmeshError: the new weights could not be written.
        """
