"""Feedback events: routes that Envoy answers itself, and who may send events from another site. Pure.

``POST /_ab/events/NAME`` passes our server like any request, which says whose event it is and whether it counts; the
route that takes what it said names the event, so that no statistic has a name that anybody else chose. Called by
:mod:`abmesh.mesh.routes` and, for the filter, :mod:`abmesh.mesh.listener`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
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
    RouteActionClusterNotFoundResponseCode,
    RouteMatch,
)
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors, CorsPolicy
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from abmesh.experiment import metrics, names
from abmesh.experiment.model import Document, Experiment

CORS: Final = "envoy.filters.http.cors"
UNKNOWN: Final = f"{names.EVENTS_PATH}unknown"
"""Name of the route of events that no experiment declares."""

PREFLIGHT: Final = f"{names.EVENTS_PATH}preflight"
"""Name of the route of a browser's question whether a page may send an event."""

_NOWHERE: Final = f"{names.TRUSTED_PREFIX}nowhere"
"""A header that nobody can set: clients' are stripped, and the server may not."""

_PREFLIGHT_SECONDS: Final = 600
_RETRY_SECONDS: Final = 1


def event_route_name(experiment: str, event: str) -> str:
    """Name of the route of events that count for an experiment."""
    return f"{experiment}/events/{event}"


def event_routes(document: Document) -> list[Route]:
    """Routes of everything below the events' path; they come before all others."""
    declared: dict[str, list[Experiment]] = {}
    for experiment in document.experiments:
        for event in experiment.events:
            if event.name != metrics.CONTINUATION:
                declared.setdefault(event.name, []).append(experiment)
    made = [_preflight()] if document.event_origins else []
    made += [route for event, experiments in declared.items() for route in _of_event(event, experiments)]
    made.append(_unanswered(UNKNOWN, RouteMatch(prefix=names.EVENTS_PATH), 404))
    policy = _cors_policy(document)
    for route in made:
        route.typed_per_filter_config.update(policy)
    return made


def cors_filters(document: Document) -> list[HttpFilter]:
    """The filter that answers a browser's question which pages may send events; none where no page may."""
    return [HttpFilter(name=CORS, typed_config=Any.pack(Cors()))] if document.event_origins else []


def _of_event(event: str, experiments: list[Experiment]) -> Iterator[Route]:
    for experiment in experiments:
        for variant in experiment.variants:
            yield _counted(experiment, variant.name, event)
    path = names.EVENTS_PATH + event
    other = HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"), invert_match=True)
    yield _answered(f"{path}/method", RouteMatch(path=path, headers=[other]), 405, {"allow": "POST"})
    known = HeaderMatcher(name=names.EXPERIMENT, present_match=True)
    needed = (
        f"{event} was not counted. It needs what says whose it is, as on the user's other requests: the same\n"
        f"header, cookie or query parameter. {names.VALUE_PARAMETER}=NUMBER is allowed only within the bounds that\n"
        "the experiment declares for this event. A page of another site must be one of event_origins.\n"
    )
    yield _answered(f"{path}/refused", RouteMatch(path=path, headers=[known]), 400, body=needed)
    yield _unanswered(f"{path}/unassigned", RouteMatch(path=path), 503, {"retry-after": str(_RETRY_SECONDS)})


def _preflight() -> Route:
    """The filter answers here; nothing goes on."""
    asked = [
        _equals(":method", "OPTIONS"),
        HeaderMatcher(name="origin", present_match=True),
        HeaderMatcher(name="access-control-request-method", present_match=True),
    ]
    return _unanswered(PREFLIGHT, RouteMatch(prefix=names.EVENTS_PATH, headers=asked), 404)


def _counted(experiment: Experiment, variant: str, event: str) -> Route:
    """What the server says may be counted, of a variant that this Envoy knows.

    One route for each variant: a regular expression of twenty names is more than Envoy takes. The header that only
    events have is asked for first, since Envoy goes through all of these for every request.
    """
    said = [
        _equals(names.EVENT, event),
        _equals(names.EXPERIMENT, experiment.name),
        _equals(names.MODEL_VERSION, variant),
        _equals(":method", "POST"),
    ]
    match = RouteMatch(path=names.EVENTS_PATH + event, headers=said)
    route = _answered(event_route_name(experiment.name, event), match, 204, {names.MODEL_VERSION: variant})
    counted = Struct.from_dict({names.TAG_EXPERIMENT: experiment.name, names.METADATA_EVENT: event})
    route.metadata = Metadata(filter_metadata={names.METADATA_NAMESPACE: counted})
    return route


def _answered(
    name: str, match: RouteMatch, status: int, headers: dict[str, str] | None = None, body: str = ""
) -> Route:
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body) if body else None),
        response_headers_to_add=_added(headers or {}),
    )


def _unanswered(name: str, match: RouteMatch, status: int, headers: dict[str, str] | None = None) -> Route:
    """A route that leads to no cluster, which Envoy answers with a status.

    Envoy's filter for pages of other sites overlooks routes that are answers themselves, and it looks but once: at the
    route that an event has before our server has said anything of it, which is one of these.
    """
    codes = RouteActionClusterNotFoundResponseCode
    missing = {404: codes.NOT_FOUND, 503: codes.SERVICE_UNAVAILABLE}[status]
    nowhere = RouteAction(cluster_header=_NOWHERE, cluster_not_found_response_code=missing)
    return Route(name=name, match=match, route=nowhere, response_headers_to_add=_added(headers or {}))


def _added(headers: dict[str, str]) -> list[HeaderValueOption]:
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return [
        HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite)
        for key, value in headers.items()
    ]


def _cors_policy(document: Document) -> dict[str, Any]:
    """With credentials: the user's cookie says whose event it is."""
    if not document.event_origins:
        return {}
    policy = CorsPolicy(
        allow_origin_string_match=[StringMatcher(exact=origin) for origin in document.event_origins],
        allow_methods="POST",
        allow_headers="content-type",
        max_age=str(_PREFLIGHT_SECONDS),
        allow_credentials=True,
        forward_not_matching_preflights=False,
    )
    return {CORS: Any.pack(policy)}


def _equals(name: str, value: str) -> HeaderMatcher:
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))
