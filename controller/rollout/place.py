"""The interface to where a command finds experiments, states, evidence and journal, and where it asks for changes.

:class:`controller.rollout.files.Files` is a document and a state folder, :class:`controller.cluster.place.Cluster` the
objects of a cluster. Whatever a command shows or decides, it does so in the same way for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import Snapshot
from controller.records import Weights
from controller.rollout.preview import Confirm
from controller.state.journal_lines import JournalLines
from controller.state.lease import Leader
from controller.state.ports import EvidenceReader
from controller.state.states import States

Action = Literal["pause", "resume", "promote", "rollback"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What an operator wants of a rollout.

    Attributes:
        action: what to do.
        experiment: the experiment's name.
        by: who asks, for the journal; may be empty.
        note: why, in their words, for the journal.
        confirm: looks before anything is done; None if nobody need look.
        step: of ``promote``: only to the next step.
    """

    action: Action
    experiment: str
    by: str = ""
    note: str = ""
    confirm: Confirm | None = None
    step: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What was done.

    Attributes:
        experiment: its name.
        reason: a sentence that says it; empty if there is none.
        before: the weights before it.
        after: the weights after it.
        generation: of what is in force then, for those who set weights.
    """

    experiment: str
    reason: str
    before: Weights
    after: Weights
    generation: str = ""


class Unseen(AbmeshError):  # noqa: N818 - it is no error of what is read
    """Something that is shown beside the rest cannot be read; the message says what, and which right is missing."""


class Place(Protocol):
    """A document and a state folder, or a cluster."""

    @property
    def evidence(self) -> EvidenceReader:
        """What was counted. Reading may raise an AbmeshError where a right is missing."""

    @property
    def shortened(self) -> str:
        """What to say where older entries of the journal are missing."""

    def name(self, experiment: str) -> str:
        """An experiment's whole name."""

    def snapshot(self) -> Snapshot:
        """The experiments.

        Raises:
            DocumentError: the document is refused as a whole.
            StoreError: it cannot be read.
            KubeError: the API server does not say, or a right is missing.
        """

    def experiment(self, name: str, *, salt: bool = False) -> Experiment:
        """One experiment.

        Args:
            name: its whole name.
            salt: whether its secret salt is needed, if it has one.

        Raises:
            UnknownName: there is none of that name.
            RefusedError: in a cluster, it is not accepted.
            SecretError: its salt cannot be read.
            AbmeshError: as for :meth:`snapshot`.
        """

    def states(self) -> States:
        """The state of every rollout.

        Raises:
            StateError: none can be read.
        """

    def leader(self) -> Leader | None:
        """Who leads; None if nobody does.

        Raises:
            StateError: it cannot be known.
            Unseen: the same, in a cluster.
        """

    def renderings(self) -> Mapping[str, Mapping[str, str] | None]:
        """What each Envoy was rendered from; empty where Envoys are not rendered by hand."""

    def failure(self, experiment: str) -> str:
        """Why the last tick could not handle an experiment, as far as only the place knows; empty if it could."""

    def notes(self, experiment: str) -> tuple[str, ...]:
        """What else there is to say of an experiment, in sentences."""

    def journal(self, experiment: str | None) -> Path | JournalLines:
        """The journal, with the entries of one experiment at least; None: of all.

        Raises:
            KubeError: it cannot be read.
        """

    def journal_name(self, experiment: str) -> str:
        """What messages call the journal of an experiment."""

    def kept_of(self, experiment: str | None) -> list[str]:
        """The experiments whose evidence goes with such a journal."""

    def carry_out(self, ask: Ask) -> Done:
        """Do what an operator wants.

        Raises:
            RefusedError: the rollout's state does not allow it.
            AbmeshError: it cannot be done.
        """

    def set_weights(self, experiment: str, named: Mapping[str, int], *, by: str, based_on: str | None) -> Done:
        """Set weights by hand.

        Args:
            experiment: the experiment's name.
            named: basis points of some variants.
            by: who asks.
            based_on: refuse unless this generation is still in force; None for whatever there is.

        Raises:
            SettingsError: ``based_on`` is not a generation.
            AbmeshError: it cannot be done.
        """
