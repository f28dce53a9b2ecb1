"""The listener through which the controller warms up a new version before its first users. Pure.

Called by :mod:`abmesh.mesh.bootstrap`. A request names its experiment and variant in the two headers that the server
sets otherwise, and reaches the variant's cluster as a user's request would: with its time limit, over the connections
that users will find open. It skips our server, and nothing reads its answer or counts it, so it is not evidence.
Loopback only: anyone who can connect here chooses the variant.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Variant
from abmesh.mesh.addresses import Endpoint, address_of
from abmesh.mesh.edge import STREAM_IDLE
from abmesh.mesh.matches import equals
from abmesh.mesh.variants import overwrite_header, to_variant

NAME: Final = "abmesh-warmup"

WARMUP_HEADER: Final = f"{names.TRUSTED_PREFIX}warmup"
"""Request header that tells a model server that no user waits for the answer; clients cannot send it."""


def warmup_listener(document: Document, endpoint: Endpoint) -> Listener:
    """The listener, with a route for every variant; anything else gets 404."""
    routes = [_route(document, item, variant) for item in document.experiments for variant in item.variants]
    rest = Route(name="unknown", match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=404))
    host = VirtualHost(name=NAME, domains=["*"], routes=[*routes, rest])
    manager = HttpConnectionManager(
        stat_prefix=NAME,
        # As for users, so that the version is warmed up with the paths that it will get.
        normalize_path=True,
        merge_slashes=True,
        stream_idle_timeout=STREAM_IDLE,
        route_config=RouteConfiguration(name=NAME, virtual_hosts=[host]),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router()))],
    )
    network = Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
    return Listener(name=NAME, address=address_of(endpoint), filter_chains=[FilterChain(filters=[network])])


def _route(document: Document, experiment: Experiment, variant: Variant) -> Route:
    named = [equals(names.EXPERIMENT, experiment.name), equals(names.MODEL_VERSION, variant.name)]
    return Route(
        name=f"{experiment.name}/{variant.name}",
        match=RouteMatch(prefix="/", headers=named),
        route=to_variant(document, experiment, variant),
        request_headers_to_add=[overwrite_header(WARMUP_HEADER, "1")],
    )
