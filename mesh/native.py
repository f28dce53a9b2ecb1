"""The native lane: routes by which Envoy itself assigns requests that carry a unit, as the server would. Pure.

Called by :mod:`mesh.routes`. Envoy hashes as :func:`experiment.bucketing.bucket_of` does, and takes the hash modulo the
sum of a route's weights, which is the number of buckets: one entry of weighted clusters for each run of buckets that
share a place gives every user the variant, slice and group that the server gives. The server is switched off on these
routes. Their headers are set by a filter and not by the route, so that a time limit counts: the router reads it before
a route's own headers are added (tried).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
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

from experiment import bucketing, names
from experiment.model import Document, Experiment
from experiment.parts import Override, Segments, Variant
from mesh import ext_proc_filter
from mesh.answers import answers_of_route
from mesh.gates import PLAIN_AUTHORITY, Gate, gate
from mesh.lane import asks_server, obstacle
from mesh.matches import equals, matches, request_match
from mesh.variants import evidence_of, host_of, idle_limit, overwriting, stamp, to_variant

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
    """The filter that sets what an assignment says; it does nothing but on routes that tell it what to set."""
    return HttpFilter(name=FILTER, typed_config=PackedAny.pack(HeaderMutation()))


def native_routes(document: Document, experiment: Experiment) -> list[Route]:
    """Routes of the requests that Envoy assigns itself; none where an experiment is left to the server."""
    if not is_native(experiment):
        return []
    made = [_override(document, experiment, place) for place in range(len(experiment.overrides))]
    earlier: list[HeaderMatcher] = []
    for source in experiment.unit:
        found = gate(source)
        if not asks_server(experiment, source):
            made.append(_split(document, experiment, found, earlier))
        earlier += found.finds_nothing
    return made


Entries = Mapping[str, Mapping[str, _Json]]
"""What the weighted clusters of a variant have in common, by experiment and variant."""


def usual_entries(document: Document) -> Entries:
    """What the weighted clusters of each variant have in common; the weights do not change it."""
    return {
        item.name: {variant.name: _entry(document, variant) for variant in item.variants}
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
        for mutation in entry["typed_per_filter_config"][FILTER]["mutations"]["request_mutations"]:
            header = mutation["append"]["header"]
            if header["key"] in said:
                header["value"] = str(said[header["key"]])
        made.append(entry)
    return made


def _entry(document: Document, variant: Variant) -> _Json:
    """What the entries of a variant have in common."""
    entry = WeightedClusterClusterWeight(
        name=variant.cluster,
        weight=1,
        response_headers_to_add=[stamp(variant.name)],
        host_rewrite_literal=host_of(document, variant.cluster),
    )
    _set(entry.typed_per_filter_config, [*_of_variant(variant), (names.SLICE, "0"), (names.GROUP, "0")])
    return entry.to_dict(casing=Casing.SNAKE)


def _override(document: Document, experiment: Experiment, place: int) -> Route:
    """To the variant, without a slice: overrides are no evidence."""
    override: Override = experiment.overrides[place]
    variant = experiment.variant(override.variant)
    said = [equals(name, value) for name, value in override.header.items()]
    route = _route(document, experiment, f"override/{place}", said, to_variant(document, variant))
    _set(route.typed_per_filter_config, _of_experiment(experiment) + _of_variant(variant))
    route.response_headers_to_add = [stamp(variant.name)]
    return route


def _split(
    document: Document,
    experiment: Experiment,
    found: Gate,
    earlier: Sequence[HeaderMatcher],
) -> Route:
    """Requests with a unit of one source, where the sources before it have none. Its clusters are filled in later."""
    action = RouteAction(
        weighted_clusters=WeightedCluster(use_hash_policy=True),
        hash_policy=[found.hash_policy(experiment.hash_salt)],
        # A variant's own is in a header of the entry.
        timeout=timedelta(),
        idle_timeout=idle_limit(experiment.control),
    )
    route = _route(document, experiment, found.label.replace(" ", "/"), [*earlier, *found.opens], action)
    _set(route.typed_per_filter_config, _of_experiment(experiment))
    return route


def _route(
    document: Document, experiment: Experiment, name: str, further: list[HeaderMatcher], action: RouteAction
) -> Route:
    disabled = PackedAny.pack(ExtProcPerRoute(disabled=True))
    return Route(
        name=f"{experiment.name}{_PART}{name}",
        match=_match(document, experiment, further),
        route=action,
        metadata=evidence_of(experiment),
        typed_per_filter_config={**answers_of_route(experiment), ext_proc_filter.NAME: disabled},
    )


def _match(document: Document, experiment: Experiment, further: list[HeaderMatcher]) -> RouteMatch:
    match = request_match(experiment.match)
    place = document.experiments.index(experiment)
    if any(item.match.host is not None for item in document.experiments[: place + 1]):
        # Of an odd host, this experiment may not be the first that matches in the server's eyes.
        further = [matches(":authority", PLAIN_AUTHORITY), *further]
    match.headers += further
    return match


_Said = list[tuple[str, str]]


def _of_experiment(experiment: Experiment) -> _Said:
    said = [(names.EXPERIMENT, experiment.name)]
    if experiment.segments is not None:
        said.append((names.SEGMENT, _segment(experiment.segments)))
    return said


def _of_variant(variant: Variant) -> _Said:
    said = [(names.MODEL_VERSION, variant.name)]
    if variant.timeout is not None:
        said.append((names.UPSTREAM_TIMEOUT, str(round(variant.timeout.total_seconds() * 1000))))
    return said


def _segment(segments: Segments) -> str:
    """One of the declared values, or ``other``, as an expression: what clients send is compared and never passed on.

    Repeated headers are joined with commas, which no declared value has.
    """
    choices = "".join(f'request.headers["{segments.header}"] == "{value}" ? "{value}" : ' for value in segments.values)
    return (
        f'%CEL("{segments.header}" in request.headers ? ({choices}"{names.OTHER_SEGMENT}") : "{names.OTHER_SEGMENT}")%'
    )


def _set(configuration: dict[str, PackedAny], said: Sequence[tuple[str, str]]) -> None:
    mutations = [Mutation(append=overwriting(name, value)) for name, value in said]
    configuration[FILTER] = PackedAny.pack(HeaderMutationPerRoute(mutations=Mutations(request_mutations=mutations)))
