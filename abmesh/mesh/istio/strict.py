"""Reads every value of an EnvoyFilter as the Envoy message that it becomes, before anybody applies it. Pure.

Istio takes almost anything: a field that it does not know is dropped without a word, and a value that Envoy refuses
freezes a gateway's whole port and leaves new pods without any route. The messages are those of xds-protos, which is
about as old as the oldest Istio that is allowed here: what it does not know, that Istio would drop.

Some of Envoy's rules are not in its messages. The most dangerous are checked here; for all of them a real Envoy is
asked with :mod:`abmesh.mesh.istio.trial`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import xxhash
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2 as early_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from abmesh.experiment.errors import RenderError
from abmesh.experiment.names import BUCKETS, EXT_PROC_CLUSTER, PLACE
from abmesh.experiment.places import POSITIONS
from abmesh.mesh import filters
from abmesh.mesh.istio.fixed import ADMIN
from abmesh.text import shorten

_TYPES: Final[Mapping[str, Any]] = {
    "CLUSTER": Cluster,
    "NETWORK_FILTER": Filter,
    "HTTP_FILTER": HttpFilter,
    "HTTP_ROUTE": Route,
    "LISTENER": Listener,
}

_PACKED: Final = frozenset(
    f"type.googleapis.com/{message.DESCRIPTOR.full_name}"
    for message in (
        cel_pb2.ExpressionFilter,
        cors_pb2.Cors,
        cors_pb2.CorsPolicy,
        early_pb2.HeaderMutation,
        ext_proc_pb2.ExtProcPerRoute,
        ext_proc_pb2.ExternalProcessor,
        header_mutation_pb2.HeaderMutation,
        header_mutation_pb2.HeaderMutationPerRoute,
        http_connection_manager_pb2.HttpConnectionManager,
        http_protocol_options_pb2.HttpProtocolOptions,
        lua_pb2.Lua,
        lua_pb2.LuaPerRoute,
        router_pb2.Router,
        stats_pb2.Config,
    )
)
"""The only extensions that we configure, all of which Istio's proxies have."""

_OURS: Final = frozenset({filters.CORS, filters.EXT_PROC, filters.HEADERS, filters.ANSWERS})
_LONGEST_PATTERN: Final = 100
"""Most characters of a regular expression; Envoy's limit is 100 of RE2's instructions, and most characters are one."""


def parsed(apply_to: str, value: Mapping[str, Any]) -> Any:
    """A patch's value as its Envoy message.

    Raises:
        RenderError: the message has no such field, or a field no such value.
    """
    kind = _TYPES.get(apply_to)
    if kind is None:
        raise RenderError(f"applyTo: found {apply_to!r}; allowed: {', '.join(_TYPES)}")
    try:
        return json_format.ParseDict(copy.deepcopy(dict(value)), kind())  # it moves keys of what it is given
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise RenderError(f"{kind.DESCRIPTOR.name}: {shorten(str(error), 300)}") from error


def problems(body: Mapping[str, Any], clusters: Collection[str]) -> list[str]:
    """What Istio or Envoy would drop, refuse or answer 503 for; nothing for an EnvoyFilter that is safe to apply.

    Args:
        body: the EnvoyFilter.
        clusters: names of the clusters that the proxies have.
    """
    name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
    known = {*clusters, ADMIN, EXT_PROC_CLUSTER}
    found = []
    for number, patch in enumerate(body["spec"]["configPatches"]):
        where = f"EnvoyFilter {name}: configPatches[{number}]"
        try:
            message = parsed(patch["applyTo"], patch["patch"]["value"])
        except RenderError as error:
            found.append(f"{where}: {error}")
            continue
        # As Envoy has it: a field may be spelled in two ways.
        value = json_format.MessageToDict(message, preserving_proto_field_name=True)
        found += [f"{where}: {problem}" for problem in _rules(value, known)]
    return found


def _rules(value: Any, clusters: Collection[str]) -> Iterator[str]:
    """Envoy's rules that its messages do not say."""
    if isinstance(value, list):
        for item in value:
            yield from _rules(item, clusters)
    if not isinstance(value, dict):
        return
    if "@type" in value and value["@type"] not in _PACKED:
        yield f"the extension {value['@type']} is none of ours"
    if "weighted_clusters" in value:
        yield from _split(value["weighted_clusters"], clusters)
    if isinstance(value.get("cluster"), str) and value["cluster"] not in clusters:
        yield f"there is no cluster {value['cluster']!r}"
    for name in value.get("typed_per_filter_config", ()):
        if name not in _OURS:
            yield f"{name!r} is none of our filters"
    if isinstance(value.get("regex"), str):
        yield from _pattern(value["regex"])
    for name, source in (value.get("source_codes") or {}).items():
        yield from _script(name, source.get("inline_string", ""))
    for item in value.values():
        yield from _rules(item, clusters)


def _split(split: Mapping[str, Any], clusters: Collection[str]) -> Iterator[str]:
    entries = split.get("clusters", ())
    total = sum(int(item.get("weight", 0)) for item in entries)
    if split.get("use_hash_policy"):
        if total != BUCKETS:
            yield f"weights by a hash sum to {total}; allowed: {BUCKETS}"
    elif split.get("header_name") != PLACE or total != POSITIONS:
        yield f"weights by {split.get('header_name')} sum to {total}; allowed: {POSITIONS} by {PLACE}"
    for item in entries:
        if item.get("name") not in clusters:
            yield f"there is no cluster {item.get('name')!r}"
        if not item.get("weight"):
            yield f"the cluster {item.get('name')!r} has no weight"


def _pattern(pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"the regular expression {shorten(pattern, 60)!r} is none: {error}"
    if len(pattern) > _LONGEST_PATTERN:
        yield f"a regular expression has {len(pattern)} characters; allowed: {_LONGEST_PATTERN}"


def _script(name: str, text: str) -> Iterator[str]:
    """Our scripts are named after their digest, so one that is not ours, or was changed, has another name."""
    if name != f"answers-{xxhash.xxh64_hexdigest(text.encode())}":
        yield f"the script {name!r} is none of ours"
