"""Carries out changes of rollouts in a cluster: one patch of the status is the change.

1. The journal's entry is written, marked as pending.
2. One merge patch of the Experiment's status puts weights, buckets, phase, stage and decision in force, all of them or
   nothing. It names the resourceVersion that was looked at and this leader's epoch, so it is refused if anybody has
   changed the Experiment since, or a newer leader has taken over.
3. The entry counts, because the status names it.

After a crash between two of these, the status says whether the change happened. If the API server's answer is lost, it
is asked. Implements :class:`controller.state.transition.Transitions`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from abmesh.experiment.errors import StateError, UnknownName
from abmesh.experiment.model import Experiment
from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Missing, Refused, Stale, Unreachable
from controller.cluster.documents import ClusterDocuments, seen, with_weights
from controller.cluster.journal import ClusterJournal
from controller.cluster.lease import Fence
from controller.cluster.objects import Experiments, Thing, in_words, patch_status
from controller.cluster.runs import run_of
from controller.cluster.status import (
    LONGEST_REASON,
    Fields,
    difference,
    epoch_of,
    state_fields,
    state_of,
    status_of,
    unseen_edit,
    weight_fields,
)
from controller.records import ExperimentState, Intent, JournalEntry, Phase
from controller.state.transition import Change, Plan, SupersededError

log = logging.getLogger("abmesh.controller")

ATTEMPTS: Final = 20
"""Most attempts at one change while others write to the Experiment; each failed one means that another write won."""

LOST_ANSWER_SECONDS: Final = 3.0
"""How long to ask whether a patch whose answer was lost was carried out."""


class ClusterTransitions:
    """Carries out changes to Experiments' statuses.

    Args:
        client: to the API server.
        experiments: as they are now.
        documents: the document that they make.
        journal: records changes.
        fence: this process's right to write.
        changed: called with what a change has put in force, after it.
        sleep: waits between two questions.
    """

    def __init__(
        self,
        client: Client,
        experiments: Experiments,
        documents: ClusterDocuments,
        journal: ClusterJournal,
        fence: Fence,
        *,
        changed: Callable[[Thing, JournalEntry], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._experiments = experiments
        self._documents = documents
        self._journal = journal
        self._fence = fence
        self._changed = changed
        self._sleep = sleep

    def recover(self, name: str, now: datetime) -> ExperimentState | None:  # noqa: ARG002 - the interface has it
        """The state as it is: a patch of a status is never half done."""
        return state_of(self._fetch(name))

    def change(self, name: str, plan: Plan, now: datetime, *, also: Fields | None = None) -> ExperimentState:
        """See :meth:`controller.state.transition.Transitions.change`.

        Args:
            name: the experiment's name.
            plan: called with the document and the state.
            now: the time.
            also: further fields of the status that are part of the change.
        """
        for _ in range(ATTEMPTS):
            thing = self._fetch(name)
            self._journal.found(name, (status_of(thing).get("lastDecision") or {}).get("id", ""))
            change = plan(self._documents.read(), state_of(thing))
            if unseen_edit(thing) and change.entry.actor == "controller" and change.after.phase is not Phase.MANUAL:
                raise SupersededError("somebody edited the weights in the spec while deciding")
            self._journal.begin(change.entry)
            if self._commit(thing, change, now, also or {}) is None:
                continue
            self._journal.done(change.entry)
            return change.after
        raise SupersededError(f"{name} was changed {ATTEMPTS} times while trying to change it")

    def put(self, name: str, expected: ExperimentState | None, state: ExperimentState) -> None:
        """See :meth:`controller.state.transition.Transitions.put`."""
        thing = self._fetch(name)
        if state_of(thing) != expected:
            raise SupersededError(f"the state of {name} changed in the meantime")
        experiment = self._experiment(name)
        fields = {**state_fields(state), **weight_fields(experiment, state.weights, experiment.effective_ranges)}
        first = {} if expected is not None else {"run": run_of(thing)}
        if self._patch(thing, {**fields, **first, "lastSeenSpecWeights": seen(thing)}) is None:
            raise SupersededError(f"{name} changed in the meantime")

    def repair(self, name: str) -> None:
        """Nothing: there is no other copy of a status."""

    def roll_back_instead(
        self,
        name: str,
        pending: Intent,  # noqa: ARG002 - the interface has it
        rollback: Change,
        now: datetime,
    ) -> ExperimentState:
        """No change is ever half done, so it is carried out as any other."""
        return self.change(name, lambda *_: rollback, now)

    def roll_back_unrecorded(self, name: str, rollback: Change) -> None:
        """See :meth:`controller.state.transition.Transitions.roll_back_unrecorded`."""
        for _ in range(ATTEMPTS):
            thing = self._fetch(name)
            if unseen_edit(thing) or state_of(thing) != rollback.before:
                return  # somebody else's weights: the next tick decides on them
            if self._commit(thing, rollback, rollback.entry.at, {}) is not None:
                log.error("%s: rolled back, but the journal has no entry of it: %s", name, rollback.entry.id)
                return

    def answer(self, name: str, request: Mapping[str, Any]) -> None:
        """Answer a request that changes nothing.

        Args:
            name: the experiment's name.
            request: what ``lastRequest`` is to say.

        Raises:
            StateError: it cannot be written.
        """
        for _ in range(ATTEMPTS):
            if self._patch(self._fetch(name), {"lastRequest": dict(request)}) is not None:
                return

    def restore(self, name: str, fields: Fields) -> bool:
        """Put into a status what was kept of an Experiment that was deleted; whether it had none yet.

        Raises:
            StateError: it cannot be written.
        """
        thing = self._fetch(name)
        if "stage" in status_of(thing):
            return False
        return self._patch(thing, {**fields, "lastSeenSpecWeights": seen(thing)}) is not None

    def publish(self, thing: Thing, fields: Fields) -> bool:
        """Patch a status with what people see, if the Experiment is still the one that was looked at.

        Raises:
            StateError: it cannot be written.
        """
        return self._patch(thing, fields) is not None

    def _commit(self, thing: Thing, change: Change, now: datetime, also: Fields) -> Thing | None:
        """The patch that is the change; None if the Experiment was changed meanwhile."""
        entry, after = change.entry, change.after
        experiment = with_weights(self._experiment(entry.experiment), after.weights)
        fields = {
            **state_fields(after),
            **weight_fields(experiment, after.weights, experiment.effective_ranges),
            "lastSeenSpecWeights": seen(thing),
            "reason": entry.reason[:LONGEST_REASON],
            **also,
        }
        if change.request:
            fields["lastRequest"] = {
                "id": change.request,
                "outcome": "done",
                "message": entry.reason[:LONGEST_REASON],
                "at": now.isoformat().replace("+00:00", "Z"),
            }
        written = self._patch(thing, fields, entry.id)
        if written is not None and self._changed is not None:
            self._changed(written, entry)
        return written

    def _patch(self, thing: Thing, fields: Fields, decision: str = "") -> Thing | None:
        """Merge fields into a status; None if the Experiment was changed meanwhile.

        Args:
            thing: the Experiment as it was looked at.
            fields: of the status, each as a whole; None removes one.
            decision: id of the decision that they carry out, to be found out about if the answer is lost.

        Raises:
            NotLeadingError: this process leads no longer.
            StateError: the API server did not take it.
        """
        before = status_of(thing)
        after = {**before, **fields}
        patch = difference(before, {name: value for name, value in after.items() if value is not None})
        stamp = self._fence.stamp
        if not patch and before.get("leader") == stamp:
            return thing
        try:
            written = patch_status(self._client, thing, patch, leader=stamp)
        except Stale:
            return None
        except Unreachable as error:
            return self._find_out(thing, decision, error)
        except Missing as error:
            self._forget(thing)
            raise SupersededError("the Experiment was deleted in the meantime") from error
        except Refused as error:
            self._refuse_newer(thing)
            raise StateError(in_words(error)) from error
        except KubeError as error:
            raise StateError(in_words(error)) from error
        self._experiments.note(written)
        return written

    def _find_out(self, thing: Thing, decision: str, lost: Unreachable) -> Thing | None:
        """Whether a patch was carried out whose answer was lost."""
        waited = 0.0
        while decision and waited < LOST_ANSWER_SECONDS:
            try:
                present = self._experiments.fetch(_name(thing))
            except KubeError:
                self._sleep(0.1)
                waited += 0.1
                continue
            if present is None:
                raise SupersededError("the Experiment was deleted in the meantime") from lost
            if (status_of(present).get("lastDecision") or {}).get("id") == decision:
                return present
            if present["metadata"]["resourceVersion"] != thing["metadata"]["resourceVersion"]:
                return None
            break  # it was not carried out yet, and may still be under way: the resourceVersion guards what follows
        raise StateError(in_words(lost)) from lost

    def _refuse_newer(self, thing: Thing) -> None:
        """Stop leading if that is why the API server refused a patch."""
        try:
            present = self._experiments.fetch(_name(thing))
        except KubeError:
            return
        if present is not None and epoch_of(present) > self._fence.stamp["epoch"]:
            self._fence.lost(f"a newer leader, of epoch {epoch_of(present)}, has taken over")
            self._fence.check()

    def _fetch(self, name: str) -> Thing:
        self._fence.check()
        try:
            found = self._experiments.fetch(name)
        except KubeError as error:
            raise StateError(in_words(error)) from error
        if found is None:
            raise SupersededError("the Experiment was deleted in the meantime")
        return found

    def _forget(self, thing: Thing) -> None:
        try:
            self._experiments.fetch(_name(thing))
        except KubeError:
            return

    def _experiment(self, name: str) -> Experiment:
        try:
            return self._documents.read().document.experiment(name)
        except UnknownName as error:
            raise SupersededError(f"{name} is no longer accepted") from error


def _name(thing: Thing) -> str:
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"
