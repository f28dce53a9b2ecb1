"""Envoy's external-processing filter, which asks our server for each request's assignment.

Pure; called by :mod:`abmesh.mesh.listener`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc, HeaderValue
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    ExtProcOverrides,
    ExtProcPerRoute,
    HeaderForwardingRules,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names
from abmesh.mesh import filters

_MAY_SET: Final = "|".join((names.MODEL_VERSION, f"{names.TRUSTED_PREFIX}.*", names.UPSTREAM_TIMEOUT))
_MAY_NOT_SET: Final = "|".join((*names.SET_BY_ENVOY, names.NOWHERE))
"""Patterns of request headers. A list of all that the server sets would be larger than Envoy allows (100 instructions);
what must not be set wins."""


def ext_proc_filter(headers: Sequence[str], message_timeout: timedelta, *, prefixes: Sequence[str] = ()) -> HttpFilter:
    """One message per request, with the headers that the document needs; if anything fails, the request goes on.

    The server may set its own headers and nothing else, may not answer in the upstream's place, and may return only
    our namespace of dynamic metadata. It is asked only on routes that have :func:`asks_server`.

    Args:
        headers: names of the request headers that the server needs.
        message_timeout: longest wait for the server's answer.
        prefixes: of names of further request headers that it may need.
    """
    forwarded = [
        *(StringMatcher(exact=name) for name in headers),
        *(StringMatcher(prefix=prefix) for prefix in prefixes),
    ]
    config = ExternalProcessor(
        # Envoy's own headers would only tell our server what it does not use.
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=names.EXT_PROC_CLUSTER, skip_envoy_headers=True)
        ),
        failure_mode_allow=True,
        message_timeout=message_timeout,
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
            request_body_mode=ProcessingModeBodySendMode.NONE,
            response_body_mode=ProcessingModeBodySendMode.NONE,
            request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
            response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        ),
        forward_rules=HeaderForwardingRules(allowed_headers=ListStringMatcher(patterns=forwarded)),
        mutation_rules=HeaderMutationRules(
            disallow_all=True,
            disallow_expression=RegexMatcher(regex=_MAY_NOT_SET),
            allow_expression=RegexMatcher(regex=_MAY_SET),
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[names.METADATA_NAMESPACE])
        ),
        route_cache_action=ExternalProcessorRouteCacheAction.CLEAR,
        disable_immediate_response=True,
    )
    return HttpFilter(name=filters.EXT_PROC, typed_config=Any.pack(config), disabled=True)


def asks_server(experiments: Sequence[str] = ()) -> dict[str, Any]:
    """A route's settings of the filter: our server is asked about its requests.

    Args:
        experiments: the only experiments that the server may choose from, where an Envoy serves several teams that may
            use the same hosts and paths; none leaves the choice to it.
    """
    said = [HeaderValue(key=names.CHOICE, value=",".join(experiments))] if experiments else []
    return {filters.EXT_PROC: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides(grpc_initial_metadata=said)))}
