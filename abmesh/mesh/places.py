"""A route's destination as a list of places: one for each variant, all others the route's own destination. Pure.

Envoy picks from the list by the number in ``x-ab-place``, which the server sets. Without a number, or with one that is
garbled, doubled or unknown here, Envoy picks any position, and all but one in two thousand million are gaps between the
variants' places. Such a request takes the route's own destination, unstamped, and counts as unassigned.

Called by :mod:`abmesh.mesh.routes`; :mod:`abmesh.experiment.places` says which position is whose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import WeightedCluster, WeightedClusterClusterWeight
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Variant
from abmesh.experiment.places import POSITIONS, place_of
from abmesh.mesh.answers import reads_answers
from abmesh.mesh.variants import add_header, host_of, version_header

# The reason stays: the unassigned are counted by it.
_ASSIGNMENT: Final = [name for name in names.SET_BY_SERVER if name != names.REASON]


def weighted_clusters(
    entries: Mapping[int, WeightedClusterClusterWeight], gap: WeightedClusterClusterWeight
) -> WeightedCluster:
    """A list of places.

    Args:
        entries: what is at the place of each variant; their weight must be 1.
        gap: what is at all other positions; its weight does not matter.
    """
    return WeightedCluster(header_name=names.PLACE, clusters=list(_positions(entries, gap)))


def _positions(
    entries: Mapping[int, WeightedClusterClusterWeight], gap: WeightedClusterClusterWeight
) -> Iterator[WeightedClusterClusterWeight]:
    reached = 0
    for place in sorted(entries):
        if place > reached:
            yield replace(gap, weight=place - reached)
        yield entries[place]
        reached = place + 1
    yield replace(gap, weight=POSITIONS - reached)


def variant_entries(document: Document, experiment: Experiment, route: str) -> dict[int, WeightedClusterClusterWeight]:
    """What is at the places of an experiment's variants on the route of this name."""
    return {
        place_of(experiment.name, variant.name): _to_variant(document, experiment, variant, route)
        for variant in experiment.variants
    }


def _to_variant(
    document: Document, experiment: Experiment, variant: Variant, route: str
) -> WeightedClusterClusterWeight:
    """The variant's cluster, its stamp on every answer, and the mark that makes its requests evidence."""
    return WeightedClusterClusterWeight(
        name=variant.cluster,
        weight=1,
        request_headers_to_add=[add_header(names.ROUTE, _plain(route))],
        request_headers_to_remove=[names.PLACE],
        response_headers_to_add=[version_header(variant.name)],
        host_rewrite_literal=host_of(document, variant.cluster),
        typed_per_filter_config=reads_answers(experiment),
    )


def own_destination(
    cluster: str, route: str, *, host: str | None = None, filters: Mapping[str, Any] | None = None
) -> WeightedClusterClusterWeight:
    """Where a route goes without abmesh, for requests without an assignment that this Envoy knows.

    The assignment is removed, so that this destination is not addressed as a variant. So is a version that the upstream
    claims.

    Args:
        cluster: the route's own destination.
        route: the route's name, which the unassigned are counted by.
        host: to rewrite the host to; None to leave it.
        filters: settings of filters for these requests alone.
    """
    return WeightedClusterClusterWeight(
        name=cluster,
        weight=1,
        request_headers_to_add=[add_header(names.UNASSIGNED, _plain(route))],
        request_headers_to_remove=list(_ASSIGNMENT),
        response_headers_to_remove=[names.MODEL_VERSION],
        host_rewrite_literal=host,
        typed_per_filter_config=dict(filters or {}),
    )


def _plain(text: str) -> str:
    """Text that Envoy takes as it is: it fills in what stands between ``%``, such as a header that a client chose."""
    return text.replace("%", "%%")
