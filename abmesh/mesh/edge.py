"""Limits of an Envoy that strangers connect to, each with its reason. Pure.

They follow Envoy's own checklist. Left out are a limit on whole requests, which would cut off a language model's long
answers, and the refusal of header names with underscores, which clients may depend on. Called by
:mod:`abmesh.mesh.listener`, :mod:`abmesh.mesh.clusters` and :mod:`abmesh.mesh.bootstrap`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, AndFilter, ExtensionFilter
from envoy_data_plane.envoy.config.core.v3 import Http2ProtocolOptions, HttpProtocolOptions
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any

from abmesh.mesh.log_filters import code_from

MAX_CONNECTIONS: Final = 50_000
"""Client connections after which Envoy refuses new ones, so that it does not run out of memory."""

CONNECTION_BUFFER: Final = 32 * 1024
"""Bytes that Envoy buffers on a connection before it stops reading from the faster side.

The default of 1 MiB, times 50,000 connections, is more than most machines have. Answers that stream never wait for it.
"""

REQUEST_HEADERS: Final = timedelta(seconds=10)
"""How long a client may take to send its request headers, so that slow ones do not use up the connections."""

STREAM_IDLE: Final = timedelta(minutes=5)
"""How long a request may be idle before Envoy ends it; a variant with a longer timeout gets that timeout instead."""

MAX_HEADERS: Final = 200
"""Most headers of a request, ours included.

Envoy's default is 100. It counts again once our server has added its own, and answers 500 if there are too many then,
which no setting to fail open covers. So there must be room above what clients send.
"""

TOO_MANY: Final = "response.code_details == 'header_mutation_result_exceeds_limit'"
"""Recognises Envoy's answer to a request that has too many headers once ours are added."""

_IDLE: Final = timedelta(hours=1)
"""How long a client's connection may be unused; it is Envoy's default, and said so that nobody lifts it."""

_STREAMS: Final = 100
"""Requests at once on one HTTP/2 connection; a client with more opens another, which counts."""

_STREAM_WINDOW: Final = 64 * 1024
_CONNECTION_WINDOW: Final = 1024 * 1024
"""Bytes that a client may send ahead on an HTTP/2 stream and connection. Envoy's defaults are 16 and 24 MiB, which a
thousand connections turn into 24 GB."""

_SHRINK_AT: Final = 0.95
_REFUSE_AT: Final = 0.98
"""Parts of the heap's limit at which Envoy gives memory back, and answers new requests with 503."""


def connection_limits() -> HttpProtocolOptions:
    """Limits of each client's connection, whatever the version of HTTP."""
    return HttpProtocolOptions(idle_timeout=_IDLE, max_headers_count=MAX_HEADERS)


def http2_limits() -> Http2ProtocolOptions:
    """Limits of each client's HTTP/2 connection."""
    return Http2ProtocolOptions(
        max_concurrent_streams=_STREAMS,
        initial_stream_window_size=_STREAM_WINDOW,
        initial_connection_window_size=_CONNECTION_WINDOW,
    )


def too_many_headers() -> LocalReplyConfig:
    """Answers 431, as Envoy does without us, to a request that has too many headers once ours are added.

    Envoy would answer 500. It reads the expression only for answers that it gives itself.
    """
    details = ExpressionFilter(expression=TOO_MANY)
    exceeded = AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=Any.pack(details)
        )
    )
    both = AccessLogFilter(and_filter=AndFilter(filters=[code_from(500), exceeded]))
    return LocalReplyConfig(mappers=[ResponseMapper(filter=both, status_code=431)])


def overload(max_heap: int) -> OverloadManager:
    """What Envoy does before it runs out of memory.

    Args:
        max_heap: bytes that Envoy may use.
    """
    return OverloadManager(
        resource_monitors=[
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(DownstreamConnectionsConfig(max_active_downstream_connections=MAX_CONNECTIONS)),
            ),
            ResourceMonitor(name=_HEAP, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=max_heap))),
        ],
        actions=[
            _at(_SHRINK_AT, "envoy.overload_actions.shrink_heap"),
            _at(_REFUSE_AT, "envoy.overload_actions.stop_accepting_requests"),
        ],
    )


_HEAP: Final = "envoy.resource_monitors.fixed_heap"


def _at(part: float, action: str) -> OverloadAction:
    return OverloadAction(name=action, triggers=[Trigger(name=_HEAP, threshold=ThresholdTrigger(value=part))])
