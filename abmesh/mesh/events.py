"""Feedback events: routes that Envoy answers itself, and which sites' pages may send events. Pure.

``POST /_ab/events/NAME`` passes our server like any request; the server says whose event it is and whether it counts.
The route that matches its answer marks the request with the event's name, so no statistic has a name that a client
chose. Called by :mod:`abmesh.mesh.routes` and, for the filter, :mod:`abmesh.mesh.listener`.

An event meets two routes: one before the server has answered, which decides what filters it passes, and one after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, HeaderValueOption
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
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import metrics, names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.request_headers import page_headers
from abmesh.mesh.ext_proc_filter import asks_server
from abmesh.mesh.filters import CORS, HEADERS, sets_headers
from abmesh.mesh.matches import equals, present
from abmesh.mesh.refusals import DISAGREEMENT, REFUSALS, refusal
from abmesh.mesh.variants import overwrite_header

UNKNOWN: Final = f"{names.EVENTS_PATH}unknown"
"""Name of the route for events that no experiment declares."""

PREFLIGHT: Final = f"{names.EVENTS_PATH}preflight"
"""Name of the route for CORS preflight requests: a browser asks whether a page may send an event."""

_PREFLIGHT_SECONDS: Final = 600
_ALWAYS_ALLOWED: Final = "content-type"
_NOT_SET_BY_PAGES: Final = frozenset({"cookie", "host", "origin"})
_MOST_ALLOWED: Final = 100
"""Most headers that the answer to a preflight names."""

_RETRY_SECONDS: Final = 1


def event_route_name(experiment: str, event: str) -> str:
    """Name of the route for an experiment's counted events."""
    return f"{experiment}/events/{event}"


def event_routes(document: Document) -> list[Route]:
    """Routes for everything below the events' path; they come before all others."""
    declared: dict[str, list[Experiment]] = {}
    for experiment in document.experiments:
        for event in experiment.events:
            if event.name != metrics.CONTINUATION:
                declared.setdefault(event.name, []).append(experiment)
    made = [route for event, experiments in declared.items() for route in _of_event(event, experiments)]
    # A cause needs no route per event: what is counted, and other methods, have matched before.
    made += [_refused(code) for code in REFUSALS if declared]
    made += [route for event in declared for route in _not_assigned(event)]
    made.append(_no_cluster(UNKNOWN, RouteMatch(prefix=names.EVENTS_PATH), 404))
    if not document.event_origins:
        return made
    policy = _cors_policy(document, ())
    for route in made:
        route.typed_per_filter_config.update(policy)
    return [*_preflights(document, declared), *made]


def cors_filter() -> HttpFilter:
    """The filter that answers preflight requests."""
    return HttpFilter(name=CORS, typed_config=Any.pack(Cors()), disabled=True)


def _of_event(event: str, experiments: list[Experiment]) -> Iterator[Route]:
    for experiment in experiments:
        for variant in experiment.variants:
            yield _counted(experiment, variant.name, event)
    path = names.EVENTS_PATH + event
    not_post = HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"), invert_match=True)
    yield _direct(f"{path}/method", RouteMatch(path=path, headers=[not_post]), 405, {"allow": "POST"})


def _not_assigned(event: str) -> Iterator[Route]:
    path = names.EVENTS_PATH + event
    yield _refusal(f"{path}/refused", RouteMatch(path=path, headers=[present(names.EXPERIMENT)]), DISAGREEMENT)
    yield _first(f"{path}/unassigned", path)


def _first(name: str, path: str) -> Route:
    """What an event meets before our server has answered, and after it if the server did not answer."""
    route = _no_cluster(name, RouteMatch(path=path), 503, {"retry-after": str(_RETRY_SECONDS)})
    # The filter that sets headers comes after the server's, so it reads only the route that the event meets last.
    route.typed_per_filter_config = {**asks_server(), HEADERS: sets_headers({names.UNASSIGNED: name})}
    return route


def refused_route_name(code: str) -> str:
    """Name of the route for events that the server refuses for a cause."""
    return f"{names.EVENTS_PATH}refused/{code}"


def _refused(code: str) -> Route:
    conditions = [present(names.EXPERIMENT), equals(names.REASON, f"event_{code}")]
    return _refusal(refused_route_name(code), RouteMatch(prefix=names.EVENTS_PATH, headers=conditions), code)


def _refusal(name: str, match: RouteMatch, code: str) -> Route:
    route = _direct(name, match, 400, {"content-type": "application/json"}, body=refusal(code))
    route.typed_per_filter_config[HEADERS] = sets_headers({names.UNASSIGNED: name})
    return route


def _preflights(document: Document, declared: dict[str, list[Experiment]]) -> Iterator[Route]:
    """The CORS filter answers on these routes, so the requests go no further.

    A browser asks whether the page may send its headers: those of the experiments that declare the event, because an
    event must carry what its user's other requests carry.
    """
    asked = [equals(":method", "OPTIONS"), present("origin"), present("access-control-request-method")]
    for event, experiments in declared.items():
        headers = [header for experiment in experiments for header in page_headers(experiment)]
        if headers:
            path = names.EVENTS_PATH + event
            route = _no_cluster(f"{path}/preflight", RouteMatch(path=path, headers=asked), 404)
            route.typed_per_filter_config.update(_cors_policy(document, headers))
            yield route
    route = _no_cluster(PREFLIGHT, RouteMatch(prefix=names.EVENTS_PATH, headers=asked), 404)
    route.typed_per_filter_config.update(_cors_policy(document, ()))
    yield route


def _counted(experiment: Experiment, variant: str, event: str) -> Route:
    """Events that the server allows to be counted, for a variant that this Envoy knows.

    One route per variant: a regular expression of twenty names is larger than Envoy allows. The header that only
    events have comes first, since Envoy tests these routes for every request.
    """
    conditions = [
        equals(names.EVENT, event),
        equals(names.EXPERIMENT, experiment.name),
        equals(names.MODEL_VERSION, variant),
        equals(":method", "POST"),
    ]
    match = RouteMatch(path=names.EVENTS_PATH + event, headers=conditions)
    route = _direct(event_route_name(experiment.name, event), match, 204, {names.MODEL_VERSION: variant})
    route.typed_per_filter_config[HEADERS] = sets_headers({names.COUNTED: event})
    return route


def _direct(name: str, match: RouteMatch, status: int, headers: dict[str, str] | None = None, body: str = "") -> Route:
    return Route(
        name=name,
        match=match,
        direct_response=DirectResponseAction(status=status, body=DataSource(inline_string=body) if body else None),
        response_headers_to_add=_added(headers or {}),
    )


def _no_cluster(name: str, match: RouteMatch, status: int, headers: dict[str, str] | None = None) -> Route:
    """A route to a cluster that does not exist, which Envoy answers with a status.

    Envoy's CORS filter ignores routes with a direct response, and it looks only once: at the route that an event has
    before our server has answered, which is one of these.
    """
    codes = RouteActionClusterNotFoundResponseCode
    missing = {404: codes.NOT_FOUND, 503: codes.SERVICE_UNAVAILABLE}[status]
    nowhere = RouteAction(cluster_header=names.NOWHERE, cluster_not_found_response_code=missing)
    return Route(name=name, match=match, route=nowhere, response_headers_to_add=_added(headers or {}))


def _added(headers: dict[str, str]) -> list[HeaderValueOption]:
    return [overwrite_header(name, value) for name, value in headers.items()]


def _cors_policy(document: Document, headers: Iterable[str]) -> dict[str, Any]:
    """With credentials, because the user's cookie says whose event it is; ``headers`` are those that pages may set."""
    allowed = dict.fromkeys([_ALWAYS_ALLOWED, *(name for name in headers if name not in _NOT_SET_BY_PAGES)])
    policy = CorsPolicy(
        allow_origin_string_match=[StringMatcher(exact=origin) for origin in document.event_origins],
        allow_methods="POST",
        allow_headers=",".join(list(allowed)[:_MOST_ALLOWED]),
        expose_headers=names.MODEL_VERSION,
        max_age=str(_PREFLIGHT_SECONDS),
        allow_credentials=True,
        forward_not_matching_preflights=False,
    )
    return {CORS: Any.pack(policy)}
