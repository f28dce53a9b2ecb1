"""The native lane: routes on which Envoy itself assigns requests that carry a unit, as the server would. Pure.

Called by :mod:`abmesh.mesh.routes`. Envoy hashes as :func:`abmesh.experiment.bucketing.bucket_of` does, and takes the
hash modulo the sum of a route's weights, which is the number of buckets. So one weighted cluster for each run of
buckets that share a place gives every user the variant, slice and group that the server would. These routes do not
switch the server on.

The routes' own headers carry the assignment, which is the cheapest way. But the router reads a time limit before they
are added (tried), so if the variants' limits differ, a filter sets them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteMatch,
    WeightedCluster,
    WeightedClusterClusterWeight,
)

from abmesh.experiment import bucketing, names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Override, Variant
from abmesh.mesh.answers import reads_answers
from abmesh.mesh.filters import HEADERS, sets_headers
from abmesh.mesh.lane import asks_server, obstacle
from abmesh.mesh.matches import PLAIN_AUTHORITY, equals, matches, request_match
from abmesh.mesh.unit_matcher import UnitMatcher, unit_matcher
from abmesh.mesh.variants import (
    add_header,
    common_timeout,
    host_of,
    idle_limit,
    timeout_header,
    to_variant,
    version_header,
)

_PART: Final = "/native/"
"""In the names of these routes, between the experiment's name and the route's purpose."""

_Json = dict[str, Any]


def is_native(experiment: Experiment) -> bool:
    """Whether Envoy assigns requests of an experiment itself."""
    return experiment.lane == "native" and not obstacle(experiment)


def has_native(document: Document) -> bool:
    """Whether Envoy assigns requests of any experiment itself."""
    return any(map(is_native, document.experiments))


def native_routes(document: Document, experiment: Experiment) -> list[Route]:
    """Routes for the requests that Envoy assigns itself; none if the experiment is left to the server."""
    if not is_native(experiment):
        return []
    made = [
        _override(document, experiment, place, segment)
        for place in range(len(experiment.overrides))
        for segment in _segments(experiment)
    ]
    earlier: list[HeaderMatcher] = []
    for source in experiment.unit:
        matcher = unit_matcher(source)
        if not asks_server(experiment, source):
            made += [_split(document, experiment, matcher, earlier, segment) for segment in _segments(experiment)]
        earlier += matcher.has_none
    return made


ClusterTemplates = Mapping[str, Mapping[str, _Json]]
"""What the weighted clusters of a variant have in common, by experiment and variant."""


def cluster_templates(document: Document) -> ClusterTemplates:
    """What the weighted clusters of each variant have in common, whatever the weights."""
    return {item.name: _templates(document, item) for item in document.experiments if is_native(item)}


def _templates(document: Document, experiment: Experiment) -> dict[str, _Json]:
    route_has_limit = common_timeout(experiment) is not None
    return {
        variant.name: entry_template(document, variant, limit=not route_has_limit) for variant in experiment.variants
    }


def fill_in(routes: Iterable[_Json], document: Document, templates: ClusterTemplates) -> None:
    """Put the weighted clusters into routes that have become plain dictionaries.

    There are hundreds of them, which differ in three numbers, and each takes milliseconds as typed messages.
    """
    ready = {
        item.name: run_entries(item, templates[item.name]) for item in document.experiments if item.name in templates
    }
    for route in routes:
        experiment, separator, _ = str(route["name"]).rpartition(_PART)
        if separator and "weighted_clusters" in route["route"]:
            route["route"]["weighted_clusters"]["clusters"] = ready[experiment]


def run_entries(experiment: Experiment, templates: Mapping[str, _Json]) -> list[_Json]:
    """The weighted clusters, one for each run of buckets: its cluster, and the headers that its requests get.

    Args:
        experiment: with the weights in force.
        templates: what those of a variant have in common, see :func:`entry_template`.
    """
    made = []
    for run in bucketing.runs(experiment.effective_ranges, experiment.slices):
        entry = copy.deepcopy(templates[run.cell.variant])
        entry["weight"] = run.stop - run.start
        values = {names.SLICE: run.cell.slice, names.GROUP: run.cell.group}
        for option in entry["request_headers_to_add"]:
            header = option["header"]
            if header["key"] in values:
                header["value"] = str(values[header["key"]])
        made.append(entry)
    return made


def entry_template(
    document: Document,
    variant: Variant,
    *,
    limit: bool,
    version: Callable[[str, str], HeaderValueOption] = add_header,
    marks: Sequence[HeaderValueOption] = (),
) -> _Json:
    """What the weighted clusters of a variant have in common.

    Args:
        document: has the clusters.
        variant: whose requests they take.
        limit: whether they set the variant's time limit, because the route does not.
        version: makes the header with the variant's name, which clients may send where nothing has removed it.
        marks: further headers of the requests.
    """
    entry = WeightedClusterClusterWeight(
        name=variant.cluster,
        weight=1,
        request_headers_to_add=[
            version(names.MODEL_VERSION, variant.name),
            add_header(names.SLICE, "0"),
            add_header(names.GROUP, "0"),
            *marks,
        ],
        response_headers_to_add=[version_header(variant.name)],
        host_rewrite_literal=host_of(document, variant.cluster),
    )
    if limit and variant.timeout is not None:
        entry.typed_per_filter_config[HEADERS] = sets_headers(timeout_header(variant))
    return entry.to_dict(casing=Casing.SNAKE)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Requests of declared segments, or all others; all requests if none are declared.

    Attributes:
        label: end of the names of their routes.
        conditions: what recognises them.
        headers: what they get, in terms of the request's own headers.
    """

    label: str = ""
    conditions: tuple[HeaderMatcher, ...] = ()
    headers: tuple[HeaderValueOption, ...] = ()


def _segments(experiment: Experiment) -> tuple[_Segment, ...]:
    """The segments that an experiment needs routes for.

    A header's value is passed on only if it is exactly a declared one, so that no client chooses a segment's name.
    Envoy joins repeated headers with commas, which no declared value has.
    """
    segments = experiment.segments
    if segments is None:
        return (_Segment(),)
    declared = matches(segments.header, "|".join(map(re.escape, segments.values)))
    return (
        _Segment("/segment", (declared,), (add_header(names.SEGMENT, f"%REQ({segments.header})%"),)),
        _Segment("", (), (add_header(names.SEGMENT, names.OTHER_SEGMENT),)),
    )


def _override(document: Document, experiment: Experiment, place: int, segment: _Segment) -> Route:
    """To the variant, without a slice: overrides are not evidence."""
    override: Override = experiment.overrides[place]
    variant = experiment.variant(override.variant)
    conditions = [equals(name, value) for name, value in override.header.items()]
    route = _route(
        document, experiment, f"override/{place}", conditions, segment, to_variant(document, experiment, variant)
    )
    route.request_headers_to_add.append(add_header(names.MODEL_VERSION, variant.name))
    route.response_headers_to_add = [version_header(variant.name)]
    return route


def _split(
    document: Document,
    experiment: Experiment,
    matcher: UnitMatcher,
    earlier: Sequence[HeaderMatcher],
    segment: _Segment,
) -> Route:
    """Requests with a unit of one source, if earlier sources have none; :func:`fill_in` adds the weighted clusters."""
    action = RouteAction(
        weighted_clusters=WeightedCluster(use_hash_policy=True),
        hash_policy=[matcher.hash_policy(experiment.hash_salt)],
        timeout=common_timeout(experiment) or timedelta(),
        idle_timeout=idle_limit(experiment),
    )
    name = matcher.label.replace(" ", "/")
    return _route(document, experiment, name, [*earlier, *matcher.has_unit], segment, action)


def _route(
    document: Document,
    experiment: Experiment,
    name: str,
    conditions: list[HeaderMatcher],
    segment: _Segment,
    action: RouteAction,
) -> Route:
    return Route(
        name=f"{experiment.name}{_PART}{name}{segment.label}",
        match=_match(document, experiment, [*conditions, *segment.conditions]),
        route=action,
        typed_per_filter_config=reads_answers(experiment),
        request_headers_to_add=[
            add_header(names.ROUTE, experiment.name),
            add_header(names.EXPERIMENT, experiment.name),
            *segment.headers,
        ],
    )


def _match(document: Document, experiment: Experiment, conditions: list[HeaderMatcher]) -> RouteMatch:
    match = request_match(experiment.match)
    place = document.experiments.index(experiment)
    if any(item.match.host is not None for item in document.experiments[: place + 1]):
        # For an unusual host, the server might find another experiment that matches first.
        conditions = [matches(":authority", PLAIN_AUTHORITY), *conditions]
    match.headers += conditions
    return match
