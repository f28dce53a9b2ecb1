"""What abmesh puts into somebody's own Envoy, in the JSON form of Envoy's messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Part(StrEnum):
    """What can be rendered by itself."""

    FILTERS = "filters"
    ROUTES = "routes"
    CLUSTERS = "clusters"
    ACCESS_LOGS = "access-logs"


class Unassigned(StrEnum):
    """Where a route's requests go that have no assignment."""

    ROUTE = "route"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Takeover:
    """What becomes of the named route.

    Attributes:
        weighted_clusters: its new destination.
        typed_per_filter_config: our filters' configuration on it, by their names.
        response_headers_to_add: further headers of its answers.
    """

    weighted_clusters: Json
    typed_per_filter_config: Json
    response_headers_to_add: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Pieces:
    """What the whole Envoy gets, whichever route is taken over.

    Attributes:
        http_filters: our filters, in order.
        early_header_mutations: what removes forged headers.
        max_headers: how many headers a request may have, ours included.
        reply_mappers: what becomes of Envoy's answer to a request that has more.
        access_log: our statistics.
        histogram_buckets: the buckets of our histograms.
        first_routes: routes that come first in the virtual host.
        clusters: our server's cluster and the variants'.
        listeners: the warm-up listener, if there is one.
        node_metadata: what Envoy says of the document that it was rendered from, below our key.
    """

    http_filters: Sequence[Json]
    early_header_mutations: Sequence[Json]
    max_headers: int
    reply_mappers: Sequence[Json]
    access_log: Sequence[Json]
    histogram_buckets: Sequence[Json]
    first_routes: Sequence[Json]
    clusters: Sequence[Json]
    listeners: Sequence[Json]
    node_metadata: Mapping[str, Any]
