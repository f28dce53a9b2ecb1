"""Applies EnvoyFilters to a proxy's configuration as Istio does, without a control plane. Pure.

Merges are Envoy's own merges of messages: lists grow, maps merge by key, and a destination of one kind replaces one of
another. Routes are merged before any is inserted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf import json_format

from abmesh.mesh.istio.envoy_filters import HTTP_CONNECTION_MANAGER, ROUTER
from abmesh.mesh.istio.native_route import REPLACE
from abmesh.mesh.istio.strict import parsed

_Json = Mapping[str, Any]
_INSERTS: Final = "INSERT_FIRST"


def applied(bootstrap: _Json, bodies: Iterable[_Json], context: str) -> dict[str, Any]:
    """A bootstrap with EnvoyFilters applied.

    Args:
        bootstrap: in the JSON form of Envoy's messages; its listeners' routes are in it.
        bodies: the EnvoyFilters, all of which select this proxy.
        context: the proxy's kind; patches for another are left out.

    Raises:
        RenderError: a value is not of its Envoy type.
    """
    made = json_format.ParseDict(copy.deepcopy(dict(bootstrap)), Bootstrap())
    ordered = sorted(bodies, key=lambda body: body["spec"]["priority"])
    patches = [patch for body in ordered for patch in body["spec"]["configPatches"]]
    patches = [patch for patch in patches if patch["match"]["context"] == context]
    # In two rounds, as Istio does for routes.
    inserts = [item for item in patches if item["applyTo"] == "HTTP_ROUTE" and item["patch"]["operation"] == _INSERTS]
    listeners = list(made.static_resources.listeners)
    for patch in [*(item for item in patches if item not in inserts), *inserts]:
        value = parsed(patch["applyTo"], patch["patch"]["value"])
        if patch["applyTo"] == "CLUSTER":
            made.static_resources.clusters.append(value)
        elif patch["applyTo"] == "LISTENER":
            made.static_resources.listeners.append(value)
        else:
            for listener in listeners:
                _to_listener(listener, patch, value)
    # By way of text: some of its dictionaries are of another kind, which is something else in YAML.
    result: dict[str, Any] = json.loads(json_format.MessageToJson(made, preserving_proto_field_name=True))
    return result


def _to_listener(listener: Any, patch: _Json, value: Any) -> None:
    port = patch["match"].get("listener", {}).get("portNumber")
    if port not in (None, listener.address.socket_address.port_value):
        return
    for chain in listener.filter_chains:
        for network in chain.filters:
            if network.name != HTTP_CONNECTION_MANAGER:
                continue
            manager = HttpConnectionManager()
            network.typed_config.Unpack(manager)
            if patch["applyTo"] == "NETWORK_FILTER":
                change = HttpConnectionManager()
                value.typed_config.Unpack(change)
                manager.MergeFrom(change)
            elif patch["applyTo"] == "HTTP_FILTER":
                names = [item.name for item in manager.http_filters]
                manager.http_filters.insert(names.index(ROUTER), value)
            else:
                _to_routes(manager.route_config.virtual_hosts, patch, value)
            network.typed_config.Pack(manager)


def _to_routes(hosts: Sequence[VirtualHost], patch: _Json, value: Route) -> None:
    wanted = patch["match"]["routeConfiguration"]["vhost"]
    for host in hosts:
        if wanted.get("name", host.name) != host.name:
            continue
        if "domainName" in wanted and wanted["domainName"] not in host.domains:
            continue
        if patch["patch"]["operation"] == _INSERTS:
            host.routes.insert(0, value)
            continue
        for route in host.routes:
            if wanted["route"].get("name", route.name) == route.name and route.HasField("route"):
                if patch["patch"]["operation"] == REPLACE:
                    _clear_lists(route, value)
                route.MergeFrom(value)


def _clear_lists(made: Any, value: Any) -> None:
    """Empty the lists of a message that another one has as well, at any depth."""
    for field, found in value.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            made.ClearField(field.name)
        elif field.message_type is not None and made.HasField(field.name):
            _clear_lists(getattr(made, field.name), found)
