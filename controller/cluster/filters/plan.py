"""Which EnvoyFilters to apply and which to delete, and which to leave alone for what reason. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import xxhash

from abmesh.mesh.istio.envoy_filters import EXPERIMENTS_NOTE, ROUTE_NOTE, EnvoyFilter, FilterKind
from abmesh.mesh.istio.native_route import REPLACE, shape_of
from abmesh.mesh.istio.render import Rendered
from controller.cluster.filters.memory import Entry, Fate, Key, Memory

Object = Mapping[str, Any]

APPLIED_BY: Final = "abmesh.dev/applied-by"
"""Label of the filters that a controller applies; those that come from Git lack it."""

CONTROLLER: Final = "controller"


class Held(StrEnum):
    """Why a filter is not as it should be: reasons of the condition ``Programmed``."""

    REMOVED = "RemovedByPerson"
    REJECTED = "Rejected"
    INVALID = "FilterInvalid"
    FOREIGN = "FilterNotOurs"
    GATEWAY = "GatewayPatchNeeded"
    FAILED = "ApplyFailed"


@dataclass(frozen=True, slots=True)
class Owner:
    """The chart's object that owns the filters, so that they go with it.

    Attributes:
        name: of the ClusterRole.
        uid: of the same.
    """

    name: str
    uid: str

    @property
    def reference(self) -> dict[str, Any]:
        """As an object has it."""
        return {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "name": self.name,
            "uid": self.uid,
        }


@dataclass(frozen=True, slots=True)
class Write:
    """A filter to apply.

    Attributes:
        item: as it was rendered.
        body: with its labels and its owner.
        digest: of the body.
        before: what is there now; None if nothing is.
    """

    item: EnvoyFilter
    body: dict[str, Any]
    digest: str
    before: Object | None = None

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.item.key

    @property
    def moves_weights(self) -> bool:
        """Whether proxies have taken all of it before, at other weights."""
        native = any(item["patch"]["operation"] == REPLACE for item in self.body["spec"]["configPatches"])
        if self.before is None or not native:
            return False
        try:
            return shape_of(self.before).allows(shape_of(self.body))
        except (AttributeError, KeyError, TypeError):  # whatever a person made of it
            return False

    def entry(self, fate: Fate, now: datetime, why: str = "") -> Entry:
        """What to remember of it."""
        return Entry(fate, self.digest, now.isoformat(), self.item.experiments, self.item.route, why)


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from.

    Attributes:
        rendered: what should be there.
        existing: abmesh's filters that are there, whoever applied them.
        memory: what is remembered.
        resumes: when somebody last asked to go on with an Experiment.
        experiments: names of all Experiments there are, accepted or not.
        unknown: those whose wishes are not known, because they are not accepted; what they have stays.
        left: filters that somebody else is to keep from now on; they stay as they are.
        faults: what is wrong with rendered filters, found before they were applied.
        owner: of the filters; None: nobody.
        listener_updates: whether filters that drain connections may be changed.
        now: the time.
    """

    rendered: Rendered
    existing: Mapping[Key, Object]
    memory: Memory
    now: datetime
    resumes: Mapping[str, datetime] = field(default_factory=dict)
    experiments: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    left: frozenset[Key] = frozenset()
    faults: Mapping[Key, str] = field(default_factory=dict)
    owner: Owner | None = None
    listener_updates: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        apply: in this order.
        prune: filters with their uids, in this order.
        held: filters that are not as they should be: why, in a word and a sentence, and whom it concerns.
        memory: to be kept before anything is deleted.
    """

    apply: tuple[Write, ...]
    prune: tuple[tuple[Key, str], ...]
    held: Mapping[Key, tuple[Held, str, tuple[str, ...]]]
    memory: Memory


def body_of(item: EnvoyFilter, owner: Owner | None) -> dict[str, Any]:
    """A rendered filter as this controller applies it."""
    metadata = item.body["metadata"]
    labels = {**metadata["labels"], APPLIED_BY: CONTROLLER}
    owned = {"ownerReferences": [owner.reference]} if owner is not None else {}
    return {**item.body, "metadata": {**metadata, "labels": labels, **owned}}


def digest_of(body: Object) -> str:
    """Identifies a content."""
    return str(xxhash.xxh64_hexdigest(json.dumps(body, sort_keys=True).encode()))


def is_ours(found: Object) -> bool:
    """Whether a controller applied a filter."""
    return (found["metadata"].get("labels") or {}).get(APPLIED_BY) == CONTROLLER


def experiments_of(found: Object) -> tuple[str, ...]:
    """For which Experiments a filter was rendered."""
    return tuple(filter(None, (found["metadata"].get("annotations") or {}).get(EXPERIMENTS_NOTE, "").split(",")))


def same_spec(found: Object, wanted: Object) -> bool:
    """Whether two filters do the same."""
    return bool(found.get("spec") == wanted.get("spec"))


def doubtful(situation: Situation) -> list[Key]:
    """Filters that were applied and are not there, as far as was read; whether it is so must be asked."""
    entries = situation.memory.entries
    wanted = {item.key for item in situation.rendered.filters}
    return [
        key
        for key, entry in entries.items()
        if entry.fate is Fate.APPLIED and key in wanted and key not in situation.existing
    ]


def plan(situation: Situation) -> Plan:
    """What to do to get from what is there to what should be there."""
    planner = _Planner(situation)
    for item in situation.rendered.filters:
        planner.want(item)
    planner.prune()
    memory = situation.memory.with_entries(planner.changes)
    return Plan(tuple(planner.apply), tuple(planner.delete), planner.held, memory)


@dataclass
class _Planner:
    at: Situation
    apply: list[Write] = field(default_factory=list)
    delete: list[tuple[Key, str]] = field(default_factory=list)
    held: dict[Key, tuple[Held, str, tuple[str, ...]]] = field(default_factory=dict)
    changes: dict[Key, Entry | None] = field(default_factory=dict)

    def want(self, item: EnvoyFilter) -> None:
        """Plan for a filter that should be there."""
        key, found = item.key, self.at.existing.get(item.key)
        body = body_of(item, self.at.owner)
        write = Write(item, body, digest_of(body), found)
        name, entry = f"the EnvoyFilter {key[0]}/{key[1]}", self.at.memory.of(key)
        if entry is not None and entry.fate in (Fate.REMOVED, Fate.REJECTED) and entry.resumed(self.at.resumes):
            entry = None
        if found is None and entry is not None and entry.fate is Fate.APPLIED:
            entry = self.changes[key] = write.entry(Fate.REMOVED, self.at.now)
        if (fault := self.at.faults.get(key)) is not None:
            self._hold(item, Held.INVALID, f"{name} was not applied: {fault}")
        elif found is None and entry is not None and entry.fate is Fate.REMOVED:
            again = "`abmesh resume` applies it again"
            self._hold(item, Held.REMOVED, f"{name} was deleted by somebody, so nothing is split there; {again}")
        elif entry is not None and entry.fate is Fate.REJECTED and entry.digest == write.digest:
            told = f": {entry.why}" if entry.why else ""
            again = "it is tried again when it changes, or after `abmesh resume`"
            self._hold(item, Held.REJECTED, f"{name} was taken back, because proxies refused it{told}; {again}")
        elif found is not None and not is_ours(found):
            if not same_spec(found, body):
                cure = "delete it, or set manage: false and render it again"
                self._hold(item, Held.FOREIGN, f"{name} is there, and was not applied by this controller; {cure}")
        elif found is not None and _as_wanted(found, body):
            if entry is None or entry.digest != write.digest or entry.fate is not Fate.APPLIED:
                self.changes[key] = write.entry(Fate.APPLIED, self.at.now)
        elif found is not None and self._drains(item) and not same_spec(found, body) and not self.at.listener_updates:
            self._need_gateway(item, found, name)
        else:
            self.apply.append(write)

    def prune(self) -> None:
        """Plan for filters that should not be there, and forget what needs no remembering."""
        wanted = {item.key for item in self.at.rendered.filters}
        for key, found in sorted(self.at.existing.items(), key=_routes_first):
            names = experiments_of(found)
            if key in wanted | self.at.left or not is_ours(found) or self.at.unknown.intersection(names):
                continue
            self.delete.append((key, found["metadata"]["uid"]))
            route = (found["metadata"].get("annotations") or {}).get(ROUTE_NOTE, "")
            gone = Entry(Fate.VANISHED, "", self.at.now.isoformat(), names, route)
            self.changes[key] = gone if route and self._refused(gone) else None
        for key, entry in self.at.memory.entries.items():
            if key in wanted or key in self.changes or self.at.unknown.intersection(entry.experiments):
                continue
            if entry.fate is Fate.REMOVED:
                stays = bool(self.at.experiments.intersection(entry.experiments))
            else:
                stays = entry.fate is Fate.VANISHED and self._refused(entry)
            if not stays:
                self.changes[key] = None

    def _refused(self, entry: Entry) -> bool:
        """Whether an Experiment still asks for the route of a filter that cannot be."""
        return any(
            refusal.experiment in entry.experiments and concerns(refusal.route, entry.route)
            for refusal in self.at.rendered.refusals
        )

    def _hold(self, item: EnvoyFilter, why: Held, message: str, experiments: tuple[str, ...] = ()) -> None:
        self.held[item.key] = why, message, experiments or item.experiments

    def _drains(self, item: EnvoyFilter) -> bool:
        return item.kind in (FilterKind.GATEWAY, FilterKind.STATISTICS)

    def _need_gateway(self, item: EnvoyFilter, found: Object, name: str) -> None:
        new = tuple(sorted(set(item.experiments) - set(experiments_of(found))))
        message = f"{name} must change, which drains connections, and listener updates are manual; apply it yourself"
        self._hold(item, Held.GATEWAY, message, new)


def concerns(refused: str, route: str) -> bool:
    """Whether a refusal of a route is about a filter's; a refusal without one is about all of an Experiment's."""
    return not refused or route == refused or route.startswith(f"{refused}/")


def _as_wanted(found: Object, body: Object) -> bool:
    there, wanted = found["metadata"], body["metadata"]
    owners = [{name: each.get(name) for name in ("kind", "name", "uid")} for each in there.get("ownerReferences") or ()]
    owned = all(
        {name: each[name] for name in ("kind", "name", "uid")} in owners for each in wanted.get("ownerReferences", ())
    )
    said = all(
        {**(there.get(part) or {}), **wanted.get(part, {})} == (there.get(part) or {})
        for part in ("labels", "annotations")
    )
    return same_spec(found, body) and owned and said


def _routes_first(item: tuple[Key, Object]) -> tuple[int, Key]:
    return -int(item[1].get("spec", {}).get("priority", 0)), item[0]
