"""Feedback events: routes that Envoy answers itself, and who may send events from another site. Pure.

``POST /_ab/events/NAME`` passes our server like any request, which says whose event it is and whether it counts; the
route that takes what it said names the event, so that no statistic has a name that anybody else chose. Called by
:mod:`mesh.routes` and, for the filter, :mod:`mesh.listener`.
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
from envoy_data_plane.envoy.config.route.v3 import DirectResponseAction, HeaderMatcher, Route, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors, CorsPolicy
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from experiment import metrics, names
from experiment.model import Document, Experiment

CORS: Final = "envoy.filters.http.cors"
UNKNOWN: Final = f"{names.EVENTS_PATH}unknown"
"""Name of the route of events that no experiment declares."""

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
    made = [route for event, experiments in declared.items() for route in _of_event(event, experiments)]
    made.append(_answered(UNKNOWN, RouteMatch(prefix=names.EVENTS_PATH), 404))
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
        "the experiment declares for this event.\n"
    )
    yield _answered(f"{path}/refused", RouteMatch(path=path, headers=[known]), 400, body=needed)
    yield _answered(f"{path}/unassigned", RouteMatch(path=path), 503, {"retry-after": str(_RETRY_SECONDS)})


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
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body) if body else None),
        response_headers_to_add=[
            HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite)
            for key, value in (headers or {}).items()
        ],
    )


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
    )
    return {CORS: Any.pack(policy)}


def _equals(name: str, value: str) -> HeaderMatcher:
    return HeaderMatcher(name=name, string_match=StringMatcher(exact=value))
