"""The names of our filters, and the one that sets request headers. Pure; used by every module here that makes routes.

Envoy looks a route's settings up by the *name* of the filter, not by its kind. With names of our own they reach no
filter of the same kind that was there before us. All of ours are off in the listener; a route that needs one switches
it on by having settings for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    HeaderMutationPerRoute,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any

from abmesh.mesh.variants import overwrite_header

STRIP: Final = "abmesh.strip"
CORS: Final = "abmesh.cors"
EXT_PROC: Final = "abmesh.ext_proc"
HEADERS: Final = "abmesh.headers"
ANSWERS: Final = "abmesh.answers"


def header_filter() -> HttpFilter:
    """The filter that sets the request headers that a route asks for: time limits, and the marks of events.

    A route's own ``request_headers_to_add`` comes too late for a time limit, and does nothing on a direct response.
    """
    return HttpFilter(name=HEADERS, typed_config=Any.pack(HeaderMutation()), disabled=True)


def sets_headers(headers: Mapping[str, str]) -> Any:
    """A route's settings of :func:`header_filter`. Without headers they only put the filter in a request's chain."""
    appended = [Mutation(append=overwrite_header(name, value)) for name, value in headers.items()]
    return Any.pack(HeaderMutationPerRoute(mutations=Mutations(request_mutations=appended)))
