"""The native lane: routes by which Envoy itself assigns requests that carry a unit, as the server would. Pure.

Called by :mod:`abmesh.mesh.routes`. Envoy hashes as :func:`abmesh.experiment.bucketing.bucket_of` does, and takes the
hash modulo the sum of a route's weights, which is the number of buckets: one entry of weighted clusters for each run of
buckets that share a place gives every user the variant, slice and group that the server gives. The server is switched
off on these routes.

The routes' own headers tell who was chosen, since that is what costs least. But the router reads a time limit before
those are added (tried): where variants' limits differ, a filter sets them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteMatch,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExtProcPerRoute
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    HeaderMutationPerRoute,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any as PackedAny

from abmesh.experiment import bucketing, names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Override, Variant
from abmesh.mesh import ext_proc_filter
from abmesh.mesh.answers import answers_of_route
from abmesh.mesh.lane import asks_server, obstacle
from abmesh.mesh.matches import equals, matches, request_match
from abmesh.mesh.unit_matcher import PLAIN_AUTHORITY, Gate, gate
from abmesh.mesh.variants import evidence_of, host_of, idle_limit, overwriting, stamp, to_variant, told

FILTER: Final = "envoy.filters.http.header_mutation"

_PART: Final = "/native/"
"""In the names of these routes, between the experiment's and what each is for."""

_Json = dict[str, Any]


def is_native(experiment: Experiment) -> bool:
    """Whether Envoy assigns requests of an experiment itself."""
    return experiment.lane == "native" and not obstacle(experiment)


def has_native(document: Document) -> bool:
    """Whether Envoy assigns requests of any experiment itself."""
    return any(map(is_native, document.experiments))


def header_filter() -> HttpFilter:
    """The filter that sets time limits; it is there for the requests alone whose cluster tells it one."""
    return HttpFilter(name=FILTER, typed_config=PackedAny.pack(HeaderMutation()), disabled=True)


def native_routes(document: Document, experiment: Experiment) -> list[Route]:
    """Routes of the requests that Envoy assigns itself; none where an experiment is left to the server."""
    if not is_native(experiment):
        return []
    made = [
        _override(document, experiment, place, segment)
        for place in range(len(experiment.overrides))
        for segment in _segments(experiment)
    ]
    earlier: list[HeaderMatcher] = []
    for source in experiment.unit:
        found = gate(source)
        if not asks_server(experiment, source):
            made += [_split(document, experiment, found, earlier, segment) for segment in _segments(experiment)]
        earlier += found.finds_nothing
    return made


Entries = Mapping[str, Mapping[str, _Json]]
"""What the weighted clusters of a variant have in common, by experiment and variant."""


def usual_entries(document: Document) -> Entries:
    """What the weighted clusters of each variant have in common; the weights do not change it."""
    return {
        item.name: {variant.name: _entry(document, item, variant) for variant in item.variants}
        for item in document.experiments
        if is_native(item)
    }


def fill_in(routes: Iterable[_Json], document: Document, usual: Entries) -> None:
    """Put the weighted clusters into routes that have become plain dictionaries.

    There are hundreds of them, which differ in three numbers, and the typed messages take milliseconds for each.
    """
    ready = {item.name: _entries(item, usual[item.name]) for item in document.experiments if item.name in usual}
    for route in routes:
        experiment, separator, _ = str(route["name"]).partition(_PART)
        if separator and "weighted_clusters" in route["route"]:
            route["route"]["weighted_clusters"]["clusters"] = ready[experiment]


def _entries(experiment: Experiment, usual: Mapping[str, _Json]) -> list[_Json]:
    """An entry for each run of buckets: where it leads, and what its requests are told to be."""
    made = []
    for run in bucketing.runs(experiment.effective_ranges, experiment.slices):
        entry = copy.deepcopy(usual[run.place.variant])
        entry["weight"] = run.stop - run.start
        said = {names.SLICE: run.place.slice, names.GROUP: run.place.group}
        for option in entry["request_headers_to_add"]:
            header = option["header"]
            if header["key"] in said:
                header["value"] = str(said[header["key"]])
        made.append(entry)
    return made


def _entry(document: Document, experiment: Experiment, variant: Variant) -> _Json:
    """What the entries of a variant have in common."""
    entry = WeightedClusterClusterWeight(
        name=variant.cluster,
        weight=1,
        request_headers_to_add=[
            told(names.MODEL_VERSION, variant.name),
            told(names.SLICE, "0"),
            told(names.GROUP, "0"),
        ],
        response_headers_to_add=[stamp(variant.name)],
        host_rewrite_literal=host_of(document, variant.cluster),
    )
    if _one_limit(experiment) is None and variant.timeout is not None:
        limit = overwriting(names.UPSTREAM_TIMEOUT, str(round(variant.timeout.total_seconds() * 1000)))
        mutations = Mutations(request_mutations=[Mutation(append=limit)])
        entry.typed_per_filter_config[FILTER] = PackedAny.pack(HeaderMutationPerRoute(mutations=mutations))
    return entry.to_dict(casing=Casing.SNAKE)


def _one_limit(experiment: Experiment) -> timedelta | None:
    """The time limit that all variants have, 0 for none; None where they differ."""
    limits = {variant.timeout or timedelta() for variant in experiment.variants}
    return limits.pop() if len(limits) == 1 else None


@dataclass(frozen=True, slots=True)
class _Segment:
    """Requests of declared segments, or all others; both where none are declared.

    Attributes:
        label: ends the names of their routes.
        when: what tells them.
        said: what they are told, in terms of the request's own headers.
    """

    label: str = ""
    when: tuple[HeaderMatcher, ...] = ()
    said: tuple[HeaderValueOption, ...] = ()


def _segments(experiment: Experiment) -> tuple[_Segment, ...]:
    """What routes an experiment needs for the segments of users.

    A header's value is passed on where it is exactly a declared one, so that no client chooses a segment's name.
    Repeated headers are joined with commas, which no declared value has.
    """
    segments = experiment.segments
    if segments is None:
        return (_Segment(),)
    declared = matches(segments.header, "|".join(map(re.escape, segments.values)))
    return (
        _Segment("/segment", (declared,), (told(names.SEGMENT, f"%REQ({segments.header})%"),)),
        _Segment("", (), (told(names.SEGMENT, names.OTHER_SEGMENT),)),
    )


def _override(document: Document, experiment: Experiment, place: int, segment: _Segment) -> Route:
    """To the variant, without a slice: overrides are no evidence."""
    override: Override = experiment.overrides[place]
    variant = experiment.variant(override.variant)
    said = [equals(name, value) for name, value in override.header.items()]
    route = _route(document, experiment, f"override/{place}", said, segment, to_variant(document, variant))
    route.request_headers_to_add.append(told(names.MODEL_VERSION, variant.name))
    route.response_headers_to_add = [stamp(variant.name)]
    return route


def _split(
    document: Document, experiment: Experiment, found: Gate, earlier: Sequence[HeaderMatcher], segment: _Segment
) -> Route:
    """Requests with a unit of one source, where the sources before it have none. Its clusters are filled in later."""
    action = RouteAction(
        weighted_clusters=WeightedCluster(use_hash_policy=True),
        hash_policy=[found.hash_policy(experiment.hash_salt)],
        timeout=_one_limit(experiment) or timedelta(),
        idle_timeout=idle_limit(experiment.control),
    )
    name = found.label.replace(" ", "/")
    return _route(document, experiment, name, [*earlier, *found.opens], segment, action)


def _route(
    document: Document,
    experiment: Experiment,
    name: str,
    further: list[HeaderMatcher],
    segment: _Segment,
    action: RouteAction,
) -> Route:
    disabled = PackedAny.pack(ExtProcPerRoute(disabled=True))
    return Route(
        name=f"{experiment.name}{_PART}{name}{segment.label}",
        match=_match(document, experiment, [*further, *segment.when]),
        route=action,
        metadata=evidence_of(experiment),
        typed_per_filter_config={**answers_of_route(experiment), ext_proc_filter.NAME: disabled},
        request_headers_to_add=[told(names.EXPERIMENT, experiment.name), *segment.said],
    )


def _match(document: Document, experiment: Experiment, further: list[HeaderMatcher]) -> RouteMatch:
    match = request_match(experiment.match)
    place = document.experiments.index(experiment)
    if any(item.match.host is not None for item in document.experiments[: place + 1]):
        # Of an odd host, this experiment may not be the first that matches in the server's eyes.
        further = [matches(":authority", PLAIN_AUTHORITY), *further]
    match.headers += further
    return match
