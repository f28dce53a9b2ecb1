"""What is read of the cluster for the filters: people's routes, gateways and Services, pods, and the filters there are.

Each kind is followed on its own; trouble with one keeps its last good set.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from abmesh.experiment.errors import RenderError
from abmesh.kube.connection import Connection
from abmesh.kube.resources import (
    DESTINATION_RULES,
    ENVOY_FILTERS,
    GATEWAYS,
    HTTP_ROUTES,
    ISTIO_GATEWAYS,
    PODS,
    SERVICES,
    VIRTUAL_SERVICES,
    Resource,
)
from abmesh.kube.watching import Listing, follow
from abmesh.mesh.istio.envoy_filters import MANAGED
from abmesh.mesh.istio.reading import read
from abmesh.mesh.istio.resources import Resources
from controller.cluster.filters.memory import Key

log = logging.getLogger("abmesh.filters")

_EVERYWHERE: Final = (VIRTUAL_SERVICES, DESTINATION_RULES, ISTIO_GATEWAYS, SERVICES, HTTP_ROUTES, GATEWAYS)
_OPTIONAL: Final = frozenset({HTTP_ROUTES.full_name, GATEWAYS.full_name})
"""Kinds that not every cluster with Istio has."""

_MISSING: Final = re.compile("could not find the requested resource|404")

_LABELS: Final = ",".join(f"{name}={value}" for name, value in MANAGED.items())

Place = tuple[str, str]
"""Full name of a kind, and a namespace; empty for all."""


@dataclass(frozen=True, slots=True)
class View:
    """What was read.

    Attributes:
        resources: reduced to what decides where a route goes.
        filters: abmesh's filters, by namespace and name.
        versions: changes whenever anything else does.
    """

    resources: Resources
    filters: Mapping[Key, Mapping[str, Any]]
    versions: tuple[object, ...]


class Read(Protocol):
    """What is known of the cluster, as :class:`Reading` has it."""

    @property
    def trouble(self) -> str:
        """Why it may be out of date; empty if it is not."""

    @property
    def waiting_for(self) -> str:
        """What was never listed; empty if all was."""

    def view(self) -> View:
        """All of it."""


class Reading:
    """Follows all that the filters depend on.

    Args:
        connection: the way to the API server.
        namespaces: where filters and proxies may be.
        cluster_domain: the end of Services' names.
        changed: called after each change, from the event loop.
    """

    def __init__(
        self, connection: Connection, namespaces: Sequence[str], cluster_domain: str, changed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._domain = cluster_domain
        self._changed = changed
        self._listings: dict[Place, Listing] = {}
        self._read: dict[tuple[str, Key], tuple[object, Resources]] = {}
        self._told: set[tuple[str, Key]] = set()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for resource in _EVERYWHERE:
                tasks.create_task(self._follow(resource, ""))
            for namespace in self._namespaces:
                tasks.create_task(self._follow(PODS, namespace))
                tasks.create_task(self._follow(ENVOY_FILTERS, namespace, _LABELS))

    async def _follow(self, resource: Resource, namespace: str, labels: str = "") -> None:
        place = (resource.full_name, namespace)
        async with aclosing(follow(self._connection, resource, namespace or None, labels=labels)) as listings:
            async for listing in listings:
                self.take(place, listing)

    def take(self, place: Place, listing: Listing) -> None:
        """Take in what is now known of a kind in a place."""
        before = self._listings.get(place)
        self._listings[place] = listing
        if listing.trouble and (before is None or before.trouble != listing.trouble):
            log.warning("%s", listing.trouble)
        self._changed()

    @property
    def trouble(self) -> str:
        """Why what is known may be out of date; empty if it is not."""
        return next(
            (each.trouble for place, each in self._listings.items() if each.trouble and self._counts(place)), ""
        )

    @property
    def waiting_for(self) -> str:
        """The first kind that was never listed; empty if all were, as far as the cluster has them."""
        places = [(resource.full_name, "") for resource in _EVERYWHERE]
        places += [(kind.full_name, space) for space in self._namespaces for kind in (PODS, ENVOY_FILTERS)]
        for place in places:
            listing = self._listings.get(place)
            if listing is None or (not listing.at and self._counts(place)):
                said = listing.trouble if listing is not None else ""
                return said or f"{place[0]} has not been listed yet"
        return ""

    def pods(self) -> list[Mapping[str, Any]]:
        """All pods where proxies may be."""
        return [
            item
            for (kind, _), listing in self._listings.items()
            if kind == PODS.full_name
            for item in listing.items.values()
        ]

    def view(self) -> View:
        """What is known now. Slow if much is new: an object is read again only when it has changed."""
        parts: list[Resources] = []
        known: dict[tuple[str, Key], tuple[object, Resources]] = {}
        filters: dict[Key, Mapping[str, Any]] = {}
        versions: list[object] = []
        for (kind, namespace), listing in sorted(dict(self._listings).items(), key=lambda item: item[0]):
            if kind == ENVOY_FILTERS.full_name:
                filters.update(listing.items)
                continue
            for key, item in sorted(listing.items.items()):
                # Pods change all the time; of them only labels count.
                version = _labels(item) if kind == PODS.full_name else item["metadata"].get("resourceVersion")
                place = (kind, key)
                before = self._read.get(place)
                found = before[1] if before is not None and before[0] == version else self._one(place, item)
                known[place] = version, found
                parts.append(found)
                versions.append((kind, namespace, key if kind != PODS.full_name else "", version))
        self._read = known
        return View(_together(parts), filters, tuple(dict.fromkeys(versions)))

    def _one(self, place: tuple[str, Key], item: Mapping[str, Any]) -> Resources:
        """One object; nothing of one that makes no sense, which must not touch the others."""
        try:
            return read([item], self._domain)
        except RenderError as error:
            if place not in self._told:
                self._told.add(place)
                log.warning("%s", error)
            return Resources()

    def _counts(self, place: Place) -> bool:
        """Whether trouble with a kind matters: not if the cluster never had it."""
        listing = self._listings.get(place)
        never = listing is not None and not listing.at and _MISSING.search(listing.trouble) is not None
        return not (place[0] in _OPTIONAL and never)


def _labels(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((item["metadata"].get("labels") or {}).items()))


def _together(parts: Iterable[Resources]) -> Resources:
    every = list(parts)
    joined = {each.name: tuple(x for part in every for x in getattr(part, each.name)) for each in fields(Resources)}
    return Resources(**joined)
