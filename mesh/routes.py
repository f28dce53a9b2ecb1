"""The route table: first what the server assigned, then where everything else goes. Pure.

Called by :mod:`mesh.listener`; :mod:`mesh.warmup` leads to variants in the same way.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Metadata,
)
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Struct

from experiment import names
from experiment.model import Document, Experiment
from experiment.parts import Match, Variant
from mesh.answers import answers_of_route
from mesh.clusters import server_name
from mesh.events import event_routes
from mesh.ext_proc_filter import SET_BY_SERVER

NAME: Final = "abmesh"
UNMATCHED: Final = "unmatched"
"""Name of the route of requests that match no experiment."""

STREAM_IDLE: Final = timedelta(minutes=5)
"""How long a request may stand still before Envoy ends it; a variant with a longer time limit gets that."""

_ASSIGNMENT: Final = [name for name in SET_BY_SERVER if name.startswith((names.MODEL_VERSION, names.TRUSTED_PREFIX))]


def route_configuration(document: Document) -> RouteConfiguration:
    """One virtual host that serves every domain."""
    assigned = [
        _assigned(document, experiment, variant)
        for experiment in document.experiments
        for variant in experiment.variants
    ]
    unassigned = [_unassigned(document, experiment) for experiment in document.experiments]
    host = VirtualHost(
        name=NAME,
        domains=["*"],
        routes=[*event_routes(document), *assigned, *unassigned, _unmatched(document)],
        response_headers_to_add=[
            _added(
                "set-cookie",
                f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:{names.METADATA_SET_COOKIE})%",
                HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD,
            )
        ],
    )
    return RouteConfiguration(name=NAME, virtual_hosts=[host])


def variant_route_name(experiment: str, variant: str) -> str:
    """Name of the route of requests that were assigned a variant."""
    return f"{experiment}/{variant}"


def unassigned_route_name(experiment: str) -> str:
    """Name of the route of requests that match an experiment, but that nobody assigned."""
    return f"{experiment}/unassigned"


def assigned_match(experiment: Experiment, variant: Variant) -> RouteMatch:
    """Requests that say that they are a variant's, whatever their path."""
    said = [_equals(names.EXPERIMENT, experiment.name), _equals(names.MODEL_VERSION, variant.name)]
    return RouteMatch(prefix="/", headers=said)


def to_variant(document: Document, variant: Variant) -> RouteAction:
    """Where a variant's requests lead, with its time limit."""
    action = _to_cluster(document, variant.cluster)
    # Envoy's own default is 15 s, which ends most answers of a language model; 0 means no limit.
    action.timeout = variant.timeout or timedelta()
    if action.timeout > STREAM_IDLE:
        action.idle_timeout = action.timeout
    return action


def _assigned(document: Document, experiment: Experiment, variant: Variant) -> Route:
    """Where the server's word leads.

    The experiment's match is not asked again: clients cannot send these headers, and a server that has already read
    an edit of the match must not be contradicted by an Envoy that has not. Only requests on a route with our metadata
    are evidence, and only the variant's own route stamps answers with it.
    """
    evidence_of = Struct.from_dict({names.TAG_EXPERIMENT: experiment.name})
    return Route(
        name=variant_route_name(experiment.name, variant.name),
        match=assigned_match(experiment, variant),
        route=to_variant(document, variant),
        metadata=Metadata(filter_metadata={names.METADATA_NAMESPACE: evidence_of}),
        typed_per_filter_config=answers_of_route(document, experiment),
        response_headers_to_add=[
            _added(names.MODEL_VERSION, variant.name, HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD)
        ],
    )


def _unassigned(document: Document, experiment: Experiment) -> Route:
    """The control, for requests whose assignment is missing or names a variant that this Envoy does not know.

    The latter lose their assignment here, so that the control is not told that it is another variant. What an
    upstream says of its version is removed.
    """
    return Route(
        name=unassigned_route_name(experiment.name),
        match=_match(experiment.match),
        route=to_variant(document, experiment.control),
        request_headers_to_remove=_ASSIGNMENT,
        response_headers_to_remove=[names.MODEL_VERSION],
    )


def _unmatched(document: Document) -> Route:
    match = RouteMatch(prefix="/")
    if document.default_cluster is None:
        return Route(name=UNMATCHED, match=match, direct_response=DirectResponseAction(status=404))
    action = _to_cluster(document, document.default_cluster)
    action.timeout = timedelta()
    return Route(
        name=UNMATCHED,
        match=match,
        route=action,
        request_headers_to_remove=_ASSIGNMENT,
        response_headers_to_remove=[names.MODEL_VERSION],
    )


def _to_cluster(document: Document, name: str) -> RouteAction:
    action = RouteAction(cluster=name)
    cluster = (document.clusters or {}).get(name)
    if cluster is not None and (server := server_name(cluster)) is not None:
        action.host_rewrite_literal = server  # a server asked for one name over TLS and for another in Host refuses
    return action


def _match(match: Match) -> RouteMatch:
    headers = [_equals(name, value) for name, value in match.headers.items()]
    if match.host is not None:
        pattern = rf"(?i){re.escape(match.host)}(:[0-9]+)?"
        headers.insert(
            0, HeaderMatcher(name=":authority", string_match=StringMatcher(safe_regex=RegexMatcher(regex=pattern)))
        )
    return RouteMatch(prefix=match.path_prefix, headers=headers)


def _added(name: str, value: str, how: HeaderValueOptionHeaderAppendAction) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=how)


def _equals(name: str, value: str) -> HeaderMatcher:
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))
