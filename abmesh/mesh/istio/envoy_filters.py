"""EnvoyFilters as Kubernetes objects, and the words of their patches. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from betterproto2 import Casing, Message

from abmesh.mesh.istio.scopes import Scope

API: Final = "networking.istio.io/v1alpha3"
MANAGED: Final = {"app.kubernetes.io/managed-by": "abmesh"}
KIND_LABEL: Final = "abmesh.dev/kind"
ROUTE_NOTE: Final = "abmesh.dev/route"
EXPERIMENTS_NOTE: Final = "abmesh.dev/experiments"

HTTP_CONNECTION_MANAGER: Final = "envoy.filters.network.http_connection_manager"
ROUTER: Final = "envoy.filters.http.router"

Json = dict[str, Any]


class FilterKind(StrEnum):
    """What an EnvoyFilter is for."""

    GATEWAY = "gateway"
    STATISTICS = "statistics"
    ROUTE = "route"
    EVENTS = "events"


_PRIORITIES: Final = {FilterKind.GATEWAY: 10, FilterKind.STATISTICS: 10, FilterKind.ROUTE: 20, FilterKind.EVENTS: 30}
"""Other people's are 0, so ours come later and nearer to the router. Events' routes come before all others."""


@dataclass(frozen=True, slots=True)
class EnvoyFilter:
    """One rendered object.

    Attributes:
        kind: what it is for.
        scope: the proxies that it reaches.
        purpose: the same in a sentence, for people.
        experiments: what it was rendered from.
        body: the object.
        route: the label of the route that it changes; empty: none in particular.
    """

    kind: FilterKind
    scope: Scope
    purpose: str
    experiments: tuple[str, ...]
    body: Json
    route: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.body["metadata"]["namespace"], self.body["metadata"]["name"]


def assemble(
    kind: FilterKind,
    scope: Scope,
    name: str,
    patches: Sequence[Json],
    *,
    purpose: str,
    experiments: Sequence[str],
    route: str = "",
) -> EnvoyFilter:
    """An EnvoyFilter of some patches, which Istio applies in this order."""
    notes = {EXPERIMENTS_NOTE: ",".join(experiments)} | ({ROUTE_NOTE: route} if route else {})
    metadata = {
        "name": name,
        "namespace": scope.namespace,
        "labels": MANAGED | {KIND_LABEL: str(kind)},
        "annotations": notes,
    }
    spec = scope.selector | {"priority": _PRIORITIES[kind], "configPatches": list(patches)}
    body = {"apiVersion": API, "kind": "EnvoyFilter", "metadata": metadata, "spec": spec}
    return EnvoyFilter(kind, scope, purpose, tuple(experiments), body, route)


def patch(apply_to: str, match: Mapping[str, Any], operation: str, value: Json) -> Json:
    """One patch."""
    return {"applyTo": apply_to, "match": dict(match), "patch": {"operation": operation, "value": value}}


def as_json(message: Message) -> Json:
    """An Envoy message with its fields' own names, and what it is above what is in it."""
    return typed_first(message.to_dict(casing=Casing.SNAKE))  # type: ignore[no-any-return]


def typed_first(value: Any) -> Any:
    """Plain data with each extension's type above its fields."""
    if isinstance(value, list):
        return [typed_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: typed_first(value[key]) for key in sorted(value, key=lambda key: key != "@type")}
