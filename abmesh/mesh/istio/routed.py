"""The EnvoyFilter of one route, which changes where it goes, and that of events. Pure.

Both change routes only: connections stay. Weights never appear here, so that a rollout writes nothing, but for an
Experiment in the native lane (:mod:`abmesh.mesh.istio.native_route`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from abmesh.experiment.model import Document, Experiment
from abmesh.mesh.events import event_routes
from abmesh.mesh.ext_proc_filter import asks_server
from abmesh.mesh.filters import EXT_PROC
from abmesh.mesh.istio.envoy_filters import EnvoyFilter, FilterKind, Json, as_json, assemble, patch, typed_first
from abmesh.mesh.istio.find import Found, Target
from abmesh.mesh.istio.native_route import native_merge
from abmesh.mesh.istio.scopes import Scope, object_name
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.pieces import Unassigned
from abmesh.mesh.merge.rendered import takeover


def document_of(experiments: Sequence[Experiment], event_origins: Sequence[str] = ()) -> Document:
    """Experiments as the renderers of a document take them; each was checked where it was read."""
    return Document.model_construct(version=1, experiments=tuple(experiments), event_origins=tuple(event_origins))


def route_filter(
    scope: Scope,
    found: Found,
    own: Mapping[Target, Destination],
    experiments: Sequence[Experiment],
    unassigned: Unassigned,
) -> EnvoyFilter:
    """Sends a route's requests to the variants of all its Experiments, and everything else where it went.

    Args:
        scope: the proxies.
        found: the rule.
        own: where the rule leads by itself, for each virtual host.
        experiments: those on this route, in the order in which they match.
        unassigned: where requests without a variant go.
    """
    patches: list[Json] = []
    for target, shares in own.items():
        patches += _merges(target, found, shares, experiments, unassigned)
    label = found.ref.label
    where = "their own destination" if unassigned is Unassigned.ROUTE else "the control"
    names = [item.name for item in experiments]
    lane = "Weights are in here, so each change of theirs changes it. " if experiments[0].lane == "native" else ""
    return assemble(
        FilterKind.ROUTE,
        scope,
        object_name(["route", *label.split("/")], f"{label} {scope}"),
        patches,
        purpose=(
            f"{found.ref} at {scope}: sends users of {', '.join(names)} to their variants, all other requests to "
            f"{where}. {lane}Deleting it gives the route back."
        ),
        experiments=names,
        route=label,
    )


def _merges(
    target: Target, found: Found, own: Destination, experiments: Sequence[Experiment], unassigned: Unassigned
) -> list[Json]:
    """A single cluster first: it throws away a list of destinations, to which the second merge would append."""
    rule = {"action": "ROUTE"} | ({"name": found.envoy_name} if found.envoy_name else {})
    match = {"context": target.scope.context, "routeConfiguration": {"vhost": target.vhost | {"route": rule}}}
    if experiments[0].lane == "native":
        return [native_merge(match, experiments[0])]
    took = takeover(document_of(experiments))(found.ref.label, own, list(experiments), unassigned)
    # In the entries, not on the route: hosts of one virtual host are merged one after the other, and a list grows.
    for entry in took.weighted_clusters["clusters"]:
        entry["response_headers_to_add"] = [*entry.get("response_headers_to_add", ()), *took.response_headers_to_add]
    filters = took.typed_per_filter_config | _asks(experiments)
    value = typed_first({"route": {"weighted_clusters": took.weighted_clusters}, "typed_per_filter_config": filters})
    return [
        patch("HTTP_ROUTE", match, "MERGE", {"route": {"cluster": own.shares[0][0]}}),
        patch("HTTP_ROUTE", match, "MERGE", value),
    ]


def _asks(experiments: Sequence[Experiment]) -> Json:
    return {name: as_json(value) for name, value in asks_server([item.name for item in experiments]).items()}


def events_filter(
    scope: Scope, hosts: Mapping[Target, Sequence[Experiment]], event_origins: Sequence[str]
) -> EnvoyFilter:
    """Routes for the feedback events of each host, which the proxy answers itself.

    Args:
        scope: the proxies.
        hosts: the Experiments of each virtual host that has any with events.
        event_origins: web origins whose pages may send events.
    """
    patches: list[Json] = []
    for target, experiments in hosts.items():
        match = {"context": scope.context, "routeConfiguration": {"vhost": target.vhost}}
        asks = _asks(experiments)
        # Each is put first, so the last one ends there.
        for route in reversed(event_routes(document_of(experiments, event_origins))):
            made = as_json(route)
            if EXT_PROC in made.get("typed_per_filter_config", {}):
                made["typed_per_filter_config"] |= asks
            patches.append(patch("HTTP_ROUTE", match, "INSERT_FIRST", made))
    names = list(dict.fromkeys(item.name for experiments in hosts.values() for item in experiments))
    return assemble(
        FilterKind.EVENTS,
        scope,
        f"{scope.name}-events",
        patches,
        purpose=f"Feedback events at {scope}: the proxy answers them itself, below /_ab/events/ of each host.",
        experiments=names,
    )
