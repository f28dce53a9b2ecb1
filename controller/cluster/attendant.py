"""What a leader does for every Experiment besides deciding: what people want of it, and what they see of it.

Before: stamp its epoch, restore what was deleted and applied again, take edits that change nothing for what they are,
begin a new run, carry out requests. After: statuses, Events, and what outlives a deleted Experiment. One Experiment's
trouble never touches another. Called by :mod:`controller.loop` around each tick, in the tick's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol
from uuid import uuid4

from abmesh.experiment.errors import AbmeshError, StoreError, UnknownName
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.store import Snapshot
from controller.cluster import requests
from controller.cluster.conditions import Found, Programming, restored, view, worth_writing
from controller.cluster.documents import ClusterDocuments, Refusal
from controller.cluster.events import Events
from controller.cluster.kept import Kept
from controller.cluster.lease import Fence, NotLeadingError
from controller.cluster.objects import Experiments, Thing
from controller.cluster.runs import edited_again, edited_in_place, run_of, taken_by_hand, with_new_run
from controller.cluster.status import epoch_of, spec_weights, status_of
from controller.cluster.transitions import ClusterTransitions
from controller.records import ExperimentState
from controller.rollout.tick import TickReport
from controller.state.transition import Change, SupersededError

log = logging.getLogger("abmesh.controller")


class Filters(Protocol):
    """Who keeps the filters of gateways, as far as an attendant asks."""

    def programming(self, name: str) -> Programming | None:
        """Whether an Experiment's routes are split; None if that is not known."""

    def revive(self, name: str) -> str:
        """What ``resume`` brings back of an Experiment's filters, in a sentence; empty if nothing."""


class Attendant:
    """Attends to Experiments around a tick.

    Args:
        experiments: as they are now.
        documents: the document that they make.
        transitions: carries out changes.
        kept: what outlives Experiments.
        events: tells people.
        fence: this process's right to write.
        forget: what to do when this process begins to lead: another may have written since it last did.

    Attributes:
        filters: says what became of the filters of gateways; None if nobody keeps any.
    """

    def __init__(
        self,
        experiments: Experiments,
        documents: ClusterDocuments,
        transitions: ClusterTransitions,
        kept: Kept,
        events: Events,
        fence: Fence,
        forget: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._experiments = experiments
        self._documents = documents
        self._transitions = transitions
        self._kept = kept
        self._events = events
        self._fence = fence
        self._forget = forget
        self.filters: Filters | None = None
        self._epoch = 0
        self._written: dict[str, datetime] = {}
        self._refused: dict[str, str] = {}
        self._troubles: dict[str, str] = {}

    def before(self, now: datetime) -> None:
        """Do what must be done before anything is decided.

        Raises:
            NotLeadingError: this process leads no longer.
            StoreError: the Experiments are not known.
        """
        epoch: int = self._fence.stamp["epoch"]
        if epoch != self._epoch:
            for each in self._forget:
                each()
            self._epoch = epoch
        troubles: dict[str, str] = {}
        for name, thing in self._experiments.all().items():
            try:
                self._attend(name, thing, epoch, now)
            except NotLeadingError:
                raise
            except SupersededError as error:
                log.info("%s: %s", name, error)
            except AbmeshError as error:
                troubles[name] = str(error)
        for name, trouble in troubles.items():
            if self._troubles.get(name) != trouble:
                log.error("%s: %s", name, trouble)
        self._troubles = troubles

    def after(self, report: TickReport, now: datetime) -> None:
        """Tell people what the tick did, and keep what outlives Experiments.

        Raises:
            NotLeadingError: this process leads no longer.
        """
        try:
            things, snapshot = self._experiments.all(), self._documents.read()
            refusals = self._documents.refusals()
        except StoreError:
            return  # the tick has said so
        outcomes = {outcome.experiment: outcome for outcome in report.outcomes}
        for name, thing in things.items():
            experiment = _of(snapshot.document, name)
            failure = report.failures.get(name) or self._troubles.get(name, "")
            programming = None if self.filters is None else self.filters.programming(name)
            salt = self._documents.salt_digest(name)
            found = Found(thing, experiment, refusals.get(name), outcomes.get(name), failure, programming, salt)
            try:
                self._publish(name, found, now)
                if experiment is not None:
                    self._kept.keep(self._experiments.known(name) or thing, experiment, salt)
            except NotLeadingError:
                raise
            except AbmeshError as error:
                log.warning("%s: %s", name, error)
        if not self._experiments.trouble:
            self._tend(things, now)

    def _tend(self, things: dict[str, Thing], now: datetime) -> None:
        try:
            self._kept.tend(things, now)
        except NotLeadingError:
            raise
        except AbmeshError as error:
            log.warning("%s", error)

    def _attend(self, name: str, thing: Thing, epoch: int, now: datetime) -> None:
        experiment = _of(self._documents.read().document, name)
        if experiment is not None and experiment.rollout is not None and "stage" not in status_of(thing):
            self._restore(name, thing, experiment, now)
            thing = self._experiments.known(name) or thing
        if epoch_of(thing) < epoch and "stage" in status_of(thing):
            # Before anything is decided on it: whatever the leader before still writes is refused from now on.
            self._transitions.publish(thing, {})
            thing = self._experiments.known(name) or thing
        if experiment is not None and experiment.rollout is not None:
            if status_of(thing).get("run") != run_of(thing) and "stage" in status_of(thing):
                self._begin_run(name, now)
            elif edited_in_place(thing) or edited_again(thing):
                self._transitions.change(name, lambda snapshot, state: _by_hand(snapshot, state, name, now), now)
        if requests.pending(thing):
            revive = self.filters.revive if self.filters is not None else (lambda _: "")
            requests.carry_out(name, thing, self._transitions, now, revive)

    def _restore(self, name: str, thing: Thing, experiment: Experiment, now: datetime) -> None:
        """Go on where an Experiment was that somebody deleted and applied again."""
        fields = self._kept.of(experiment, now, self._documents.salt_digest(name))
        if fields is None or fields.get("run") != run_of(thing):
            return
        text = "applied again with the same salt and variants within seven days, so users stay where they were"
        fields["conditions"] = restored(status_of(thing).get("conditions") or (), text, now)
        if self._transitions.restore(name, fields):
            log.warning("%s: %s", name, text)
            self._events.tell(thing, "Restored", text, action="Restore")

    def _begin_run(self, name: str, now: datetime) -> None:
        """Begin the run that the spec names, at the spec's weights."""
        thing = self._experiments.known(name)
        if thing is None:
            return

        def plan(snapshot: Snapshot, state: ExperimentState | None) -> Change:
            present = self._experiments.known(name) or thing
            experiment = snapshot.document.experiment(name)
            return with_new_run(snapshot, experiment, state, spec_weights(present), run_of(present), uuid4().hex, now)

        self._transitions.change(name, plan, now, also={"run": run_of(thing)})

    def _publish(self, name: str, found: Found, now: datetime) -> None:
        status = status_of(found.thing)
        fields = view(found, now)
        if found.refusal is not None:
            self._tell_refusal(name, found.thing, found.refusal)
        else:
            self._refused.pop(name, None)
        if worth_writing(status, fields, self._written.get(name), now) and self._transitions.publish(
            found.thing, fields
        ):
            self._written[name] = now

    def _tell_refusal(self, name: str, thing: Thing, refusal: Refusal) -> None:
        if self._refused.get(name) != refusal.message:
            self._refused[name] = refusal.message
            log.error("%s is not accepted: %s", name, refusal.message)
            self._events.tell(thing, "NotAccepted", refusal.message, action="Validate", warning=True)


def _of(document: Document, name: str) -> Experiment | None:
    try:
        return document.experiment(name)
    except UnknownName:
        return None


def _by_hand(snapshot: Snapshot, state: ExperimentState | None, name: str, now: datetime) -> Change:
    if state is None:
        raise SupersededError("its state is gone")
    return taken_by_hand(snapshot, snapshot.document.experiment(name), state, uuid4().hex, now)
