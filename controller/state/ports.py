"""The interfaces to what the controller keeps, apart from the document: states, evidence, journal and lease.

Two sets of classes have them: files (the other modules of this folder) and Kubernetes objects
(:mod:`controller.cluster`). How a change becomes durable is in neither of these, but in
:class:`controller.state.transition.Transitions`. Used by :mod:`controller.rollout` and :mod:`controller.loop`.
"""

from __future__ import annotations

from typing import Protocol

from abmesh.experiment.journal_bound import JournalBound
from controller.records import JournalEntry
from controller.state.evidence import StageEvidence
from controller.state.lease import Heartbeat, Leader
from controller.state.states import States


class StateReader(Protocol):
    """Reads the state of every rollout."""

    def read(self) -> States:
        """All states; one that is damaged does not keep the others from being read.

        Raises:
            StateError: none can be read.
        """

    def migrate(self, timeout: float) -> str:
        """Bring what an earlier version kept into today's form.

        Args:
            timeout: seconds to wait for another process.

        Returns:
            What was done, as a sentence; empty if there was nothing to do.

        Raises:
            StateError: it cannot be done.
        """

    def place(self, experiment: str) -> str:
        """Where an experiment's state is kept, for messages."""


class EvidenceReader(Protocol):
    """Reads the evidence of each rollout's stage."""

    def read(self, experiment: str) -> StageEvidence | None:
        """What was kept of an experiment; None if there is nothing, or nothing that makes sense."""


class Evidence(EvidenceReader, Protocol):
    """Keeps the evidence of each rollout's stage. Losing it loses evidence, never a step."""

    def write(self, experiment: str, live: StageEvidence) -> None:
        """Keep what is known of an experiment.

        Raises:
            StateError: it cannot be written.
        """


class Recorder(Protocol):
    """The journal, as far as the leader writes and asks it."""

    def keep_within(self, bound: JournalBound) -> None:
        """Bound the journal from now on, where the document says how."""

    def append(self, entry: JournalEntry, *, durable: bool) -> None:
        """Write an entry.

        Raises:
            StateError: it cannot be written.
        """

    def knows(self, experiment: str) -> bool:
        """Whether there is any entry about an experiment.

        Raises:
            StateError: the journal cannot be read.
        """

    def entry(self, experiment: str, entry_id: str = "") -> JournalEntry | None:
        """An experiment's entry with an id, or its last one; None if there is none.

        Raises:
            StateError: the journal cannot be read.
        """


class Leadership(Protocol):
    """Of several controllers, one leads."""

    @property
    def held(self) -> bool:
        """Whether this process leads."""

    def acquire(self) -> bool:
        """Try to lead; whether this process leads now.

        Raises:
            StateError: it cannot be known.
        """

    def beat(self, heartbeat: Heartbeat) -> None:
        """Tell that a tick has ended; nothing if this process does not lead."""

    def leader(self) -> Leader:
        """Who leads, while somebody does."""

    def release(self) -> None:
        """Stop leading."""
