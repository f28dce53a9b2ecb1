"""A cluster, as commands see it by a person's own rights. Implements :class:`controller.rollout.place.Place`.

Experiments and their statuses are read from the person's namespace, evidence and journals from abmesh's own. Changes
are asked of the leader (:mod:`controller.cluster.asking`). Nothing is kept between two reads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from abmesh.experiment.errors import RefusedError, SettingsError, UnknownName
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.quantities import format_weight
from abmesh.experiment.secrets import read_salts
from abmesh.experiment.store import Snapshot, format_generation
from abmesh.kube.client import Client
from abmesh.kube.errors import Missing
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.status import ACCEPTED, HEALTHY, PROGRAMMED, PROGRESSING, READY
from controller.cluster.asking import Asker
from controller.cluster.documents import document_of
from controller.cluster.lookout import Lookout
from controller.cluster.names import full_name
from controller.cluster.objects import Thing
from controller.cluster.reading import Reading
from controller.cluster.requests import Request, decision_of
from controller.cluster.states import states_of
from controller.cluster.status import state_of, status_of
from controller.records import ExperimentState, Phase, adopt
from controller.rollout.operations import Decide
from controller.rollout.place import Ask, Done
from controller.rollout.preview import look, outline
from controller.settings import check_note
from controller.state.journal_lines import KeptLines
from controller.state.lease import Leader
from controller.state.states import States

_SHOWN_ELSEWHERE: Final = {ACCEPTED, HEALTHY, PROGRESSING, READY}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


class Cluster:
    """Reads, and asks the leader.

    Args:
        client: to the API server, with a person's rights.
        namespace: of the Experiments.
        own: abmesh's namespace.
        everywhere: whether the Experiments of all namespaces are meant.
        tell: says what is waited for.
        sleep: waits.
        monotonic: a clock.
    """

    shortened = (
        "a ConfigMap holds the newest entries only; the controller writes every entry to its standard output, too"
    )

    def __init__(
        self,
        client: Client,
        namespace: str,
        own: str,
        *,
        everywhere: bool = False,
        tell: Callable[[str], None] = _say,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._everywhere = everywhere
        self._lookout = Lookout(client, own, sleep=sleep)
        self._asker = Asker(client, self._lookout, tell, sleep, monotonic)
        self._last: Mapping[str, Thing] = {}
        self.evidence = self._reading = Reading(client, own)

    def __str__(self) -> str:
        return "all namespaces" if self._everywhere else f"namespace {self._namespace}"

    def name(self, experiment: str) -> str:
        """See :meth:`controller.rollout.place.Place.name`."""
        return experiment if "/" in experiment else f"{self._namespace}/{experiment}"

    def snapshot(self) -> Snapshot:
        """See :meth:`controller.rollout.place.Place.snapshot`; those that are not accepted are in its ``refused``."""
        return _snapshot(self._things())

    def experiment(self, name: str, *, salt: bool = False) -> Experiment:
        """See :meth:`controller.rollout.place.Place.experiment`."""
        found = _accepted(self.snapshot(), name)
        if not salt or found.secret_salt is None:
            return found
        alone = Document.model_construct(version=1, experiments=(found,))
        return read_salts(alone, lambda _: True).experiment(name)

    def states(self) -> States:
        """See :meth:`controller.rollout.place.Place.states`."""
        return states_of(self._things())

    def leader(self) -> Leader | None:
        """See :meth:`controller.rollout.place.Place.leader`."""
        return self._lookout.leader()

    def renderings(self) -> Mapping[str, Mapping[str, str] | None]:
        """None: the controller writes Istio's configuration."""
        return {}

    def failure(self, experiment: str) -> str:
        """See :meth:`controller.rollout.place.Place.failure`."""
        ready = self._condition(experiment, READY)
        return str(ready.get("message", "")) if ready.get("reason") == "Failed" else ""

    def notes(self, experiment: str) -> tuple[str, ...]:
        """The conditions that nothing else says: not programmed, contested, restored and the like."""
        return tuple(
            f"{item['type']} is {item['status']} ({item['reason']}): {item.get('message', '')}"
            for item in self._conditions(experiment)
            if item["type"] not in _SHOWN_ELSEWHERE and (item["status"] != "True") is (item["type"] == PROGRAMMED)
        )

    def journal(self, experiment: str | None) -> KeptLines:
        """See :meth:`controller.rollout.place.Place.journal`."""
        if experiment is None:
            return self._reading.journal(self._things())
        try:
            things: dict[str, Thing] = {experiment: self._get(experiment)}
        except UnknownName:
            things = {}
        return self._reading.journal(things, experiment)

    def journal_name(self, experiment: str) -> str:
        """See :meth:`controller.rollout.place.Place.journal_name`."""
        return self._reading.journal_name(experiment)

    def kept_of(self, experiment: str | None) -> list[str]:
        """See :meth:`controller.rollout.place.Place.kept_of`."""
        return list(self._things()) if experiment is None else [experiment]

    def carry_out(self, ask: Ask) -> Done:
        """See :meth:`controller.rollout.place.Place.carry_out`."""
        arguments = {"step": True} if ask.step else {}
        request = _request(ask.action, ask.by, check_note(ask.note), arguments)
        decide, now = decision_of(request), datetime.now(UTC)
        first = self._get(ask.experiment)
        seen = None
        if ask.confirm is not None and not _is_about_filters(ask, first):
            lenient = _lenient(decide, first) if ask.action == "resume" else decide
            snapshot = _snapshot({ask.experiment: first})
            _with_rollout(snapshot, ask.experiment)
            seen = look(snapshot, state_of(first), ask.experiment, lenient, ask.confirm, now)

        def check(thing: Thing) -> None:
            if _is_about_filters(ask, thing):
                return
            experiment = _with_rollout(_snapshot({ask.experiment: thing}), ask.experiment)
            state = state_of(thing)
            if seen is not None and outline(experiment, state) != seen:
                raise RefusedError(f"{ask.experiment} has changed since it was shown, so nothing was done; look again")
            lenient = _lenient(decide, thing) if ask.action == "resume" else decide
            lenient(experiment, state or adopt(experiment, Phase.PROGRESSING, uuid4().hex, now))

        return self._done(ask.experiment, request, check)

    def set_weights(self, experiment: str, named: Mapping[str, int], *, by: str, based_on: str | None) -> Done:
        """Have the leader set them in the status; the spec, which may be Git's, stays as it is."""
        if based_on is not None:
            raise SettingsError("--based-on is for a document; the leader of a cluster decides one thing at a time")
        request = _request("weights", by, "", {name: format_weight(weight) for name, weight in named.items()})
        decide, now = decision_of(request), datetime.now(UTC)
        self._get(experiment)

        def check(thing: Thing) -> None:
            found = _with_rollout(_snapshot({experiment: thing}), experiment)
            decide(found, state_of(thing) or adopt(found, Phase.PROGRESSING, uuid4().hex, now))

        return self._done(experiment, request, check)

    def _done(self, name: str, request: Request, check: Callable[[Thing], None]) -> Done:
        before: dict[str, int] = {}

        def noting(thing: Thing) -> None:
            check(thing)
            before.update(_accepted(_snapshot({name: thing}), name).weights)

        after, message = self._asker.ask(name, request, noting)
        snapshot = _snapshot({name: after})
        weights = _accepted(snapshot, name).weights
        return Done(name, message, before, weights, format_generation(snapshot.generation))

    def _get(self, name: str) -> dict[str, Any]:
        namespace, _, bare = name.partition("/")
        try:
            return self._client.get(EXPERIMENTS, namespace, bare)
        except Missing as error:
            known = tuple(self._things())  # raises if there is no such kind of objects
            raise UnknownName("experiment", name, known) from error

    def _things(self) -> Mapping[str, Thing]:
        listed = self._client.list(EXPERIMENTS, None if self._everywhere else self._namespace)
        items = sorted(listed.items, key=lambda item: (item["metadata"].get("creationTimestamp", ""), full_name(item)))
        self._last = {full_name(item): item for item in items}
        return self._last

    def _conditions(self, name: str) -> list[dict[str, Any]]:
        thing = self._last.get(name)
        return [] if thing is None else list(status_of(thing).get("conditions") or ())

    def _condition(self, name: str, kind: str) -> dict[str, Any]:
        return next((item for item in self._conditions(name) if item["type"] == kind), {})


def _request(action: Any, by: str, note: str, arguments: dict[str, Any]) -> Request:
    return Request(id=uuid4().hex, action=action, reason=note, by=by, arguments=arguments)


def _snapshot(things: Mapping[str, Thing]) -> Snapshot:
    snapshot, refusals = document_of(things)
    refused = {name: refusal.message for name, refusal in refusals.items()}
    return Snapshot(snapshot.document, "", snapshot.generation, refused=refused)


def _accepted(snapshot: Snapshot, name: str) -> Experiment:
    if name in snapshot.refused:
        raise RefusedError(f"{name} is not accepted: {snapshot.refused[name]}")
    return snapshot.document.experiment(name)


def _with_rollout(snapshot: Snapshot, name: str) -> Experiment:
    experiment = _accepted(snapshot, name)
    if experiment.rollout is None:
        raise RefusedError(f"{name} has no rollout, so its weights are its spec's; change them there, or add a rollout")
    return experiment


def _is_unprogrammed(thing: Thing) -> bool:
    conditions = status_of(thing).get("conditions") or ()
    return any(item["type"] == PROGRAMMED and item["status"] == "False" for item in conditions)


def _is_about_filters(ask: Ask, thing: Thing) -> bool:
    """Whether nothing but filters can be meant: an Experiment without a rollout has nothing else to resume."""
    return ask.action == "resume" and "rollout" not in thing["spec"] and _is_unprogrammed(thing)


def _lenient(decide: Decide, thing: Thing) -> Decide:
    """What is not programmed may be resumed whatever its phase: the leader then writes its filters again."""
    if not _is_unprogrammed(thing):
        return decide

    def decision(experiment: Experiment, state: ExperimentState) -> Any:
        return decide(experiment, state.model_copy(update={"phase": Phase.PAUSED}))

    return decision
