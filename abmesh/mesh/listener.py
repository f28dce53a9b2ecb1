"""The listener that serves clients, with its connection manager and filters.

Pure; called by :mod:`abmesh.mesh.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    ConfigSource,
    PathConfigSource,
    TypedExtensionConfig,
    WatchedDirectory,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names
from abmesh.experiment.answers import Answers
from abmesh.experiment.model import Document
from abmesh.experiment.request_headers import needed_headers
from abmesh.mesh import edge
from abmesh.mesh.addresses import address_of
from abmesh.mesh.answers import answers_filter
from abmesh.mesh.events import cors_filter
from abmesh.mesh.ext_proc_filter import ext_proc_filter
from abmesh.mesh.filters import STRIP, header_filter
from abmesh.mesh.measured import kinds_of
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.routes import NAME as ROUTES
from abmesh.mesh.routes import route_configuration
from abmesh.mesh.statistics import loggers

NAME: Final = "abmesh"


def listener(document: Document, options: RenderOptions) -> Listener:
    """Envoy's listener for the document's experiments."""
    rds = _routes_from_file(options.routes_file) if options.routes_file else None
    manager = HttpConnectionManager(
        stat_prefix=NAME,
        common_http_protocol_options=edge.connection_limits(),
        http2_protocol_options=edge.http2_limits(),
        local_reply_config=edge.too_many_headers(),
        use_remote_address=True,
        xff_num_trusted_hops=options.trusted_hops,
        early_header_mutation_extensions=[_strip_forged_headers()],
        # Envoy and the server both match paths: both must see /v1/x for /v1/../v1//x.
        normalize_path=True,
        merge_slashes=True,
        stream_idle_timeout=edge.STREAM_IDLE,
        request_headers_timeout=edge.REQUEST_HEADERS,
        access_log=loggers(kinds_of(document)),
        rds=rds,
        route_config=None if rds else route_configuration(document),
        http_filters=[
            *our_filters(document, options),
            HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router())),
        ],
    )
    network = Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
    return Listener(
        name=NAME,
        address=address_of(options.listen_endpoint),
        filter_chains=[FilterChain(filters=[network])],
        per_connection_buffer_limit_bytes=edge.CONNECTION_BUFFER,
    )


def our_filters(document: Document, options: RenderOptions) -> list[HttpFilter]:
    """The HTTP filters before the router."""
    asks = ext_proc_filter(needed_headers(document), options.message_timeout)
    return in_order(asks, [experiment.answers for experiment in document.experiments])


def in_order(asks: HttpFilter, answers: Iterable[Answers]) -> list[HttpFilter]:
    """The HTTP filters before the router; a CORS preflight request is answered before it reaches our server.

    Args:
        asks: the filter that asks our server.
        answers: where models' answers say what is counted.
    """
    return [cors_filter(), asks, header_filter(), answers_filter(answers)]


def _routes_from_file(routes_file: str) -> Rds:
    """Routes from a file, which Envoy reads again whenever something is moved into its folder."""
    folder = routes_file.rpartition("/")[0] or "/"
    source = PathConfigSource(path=routes_file, watched_directory=WatchedDirectory(path=folder))
    return Rds(route_config_name=ROUTES, config_source=ConfigSource(path_config_source=source))


def _strip_forged_headers() -> TypedExtensionConfig:
    """Remove the headers that only Envoy and our server may set from what clients send, before anything reads them.

    Names with underscores too: a CGI or WSGI server makes one variable of ``x-ab-slice``, ``x_ab_slice`` and
    ``x_ab-slice``. Envoy matches names in lower case.
    """
    prefixes = "|".join(_either_dash(prefix) for prefix in (names.TRUSTED_PREFIX, names.ENVOY_PREFIX))
    forged = StringMatcher(safe_regex=RegexMatcher(regex=f"{_either_dash(names.MODEL_VERSION)}|(?:{prefixes}).*"))
    mutation = HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=forged))
    return TypedExtensionConfig(
        name=STRIP,
        typed_config=Any.pack(EarlyHeaderMutation(mutations=[mutation])),
    )


def _either_dash(name: str) -> str:
    return name.replace("-", "[-_]")
