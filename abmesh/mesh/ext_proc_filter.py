"""Envoy's external-processing filter, which asks our server for each request's assignment.

Pure; called by :mod:`abmesh.mesh.listener`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
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

NAME: Final = "envoy.filters.http.ext_proc"

SET_BY_SERVER: Final = (
    names.MODEL_VERSION,
    names.EXPERIMENT,
    names.SLICE,
    names.GROUP,
    names.SEGMENT,
    names.ISSUED,
    names.CONTINUED,
    names.EVENT,
    names.EVENT_VALUE,
    names.UPSTREAM_TIMEOUT,
)
"""The only request headers that the server may set."""


def ext_proc_filter(headers: Sequence[str], message_timeout: timedelta) -> HttpFilter:
    """One message per request, with the headers that the document needs; if anything fails, the request goes on.

    The server may set its own headers and nothing else, may not answer in the upstream's place, and may return only
    our namespace of dynamic metadata.

    Args:
        headers: names of the request headers that the server needs.
        message_timeout: longest wait for the server's answer.
    """
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
        forward_rules=HeaderForwardingRules(
            allowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=name) for name in headers])
        ),
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex=_any_of(SET_BY_SERVER))
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[names.METADATA_NAMESPACE])
        ),
        route_cache_action=ExternalProcessorRouteCacheAction.CLEAR,
        disable_immediate_response=True,
    )
    return HttpFilter(name=NAME, typed_config=Any.pack(config))


def _any_of(headers: Sequence[str]) -> str:
    """A regular expression of names, sorted so that RE2 shares prefixes; unsorted it is larger than Envoy allows."""
    return "|".join(sorted(headers))
