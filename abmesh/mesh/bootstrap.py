"""A complete Envoy bootstrap for a document. Pure; called by ``abmesh render envoy``, the demo and benchmarks."""

from __future__ import annotations

from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
)
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Struct

from abmesh.experiment.model import Document
from abmesh.mesh import parts
from abmesh.mesh.addresses import address_of
from abmesh.mesh.buckets import stats_config
from abmesh.mesh.clusters import ext_proc_cluster, model_clusters
from abmesh.mesh.edge import overload
from abmesh.mesh.listener import listener
from abmesh.mesh.native import cluster_templates, fill_in, has_native
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.unit_matcher import LARGEST_PATTERN
from abmesh.mesh.warmup import warmup_listener

READABLE_ADMIN_PATHS: Final = ("/stats", "/ready", "/server_info", "/clusters", "/listeners", "/config_dump", "/certs")
"""Prefixes of the paths that the admin endpoint answers. None of them changes anything."""


def render_bootstrap(document: Document, options: RenderOptions) -> dict[str, Any]:
    """Envoy's bootstrap for a document, in the JSON form of Envoy's messages.

    Args:
        document: what to render; it needs ``clusters``.
        options: addresses and time limits.

    Returns:
        Plain dictionaries, lists, strings, numbers and booleans, in the order of Envoy's own message fields.

    Raises:
        RenderError: the document lacks something that Envoy needs.
        UnknownName: a cluster that is used is not in ``clusters``.
    """
    server = ext_proc_cluster(options.ext_proc_targets, options.streams_per_connection, options.ext_proc_tls)
    bootstrap = Bootstrap(
        node=Node(
            id=options.node_id,
            cluster=options.node_cluster,
            metadata=_metadata(document, options),
        ),
        static_resources=BootstrapStaticResources(
            listeners=_listeners(document, options), clusters=[*model_clusters(document), server]
        ),
        layered_runtime=_runtime() if has_native(document) or options.routes_file else None,
        stats_config=stats_config(),
        stats_flush_interval=options.stats_flush_interval,
        admin=Admin(
            address=address_of(options.admin_endpoint),
            # Statistics must stay readable even if clients have taken every connection.
            ignore_global_conn_limit=True,
            allow_paths=[StringMatcher(prefix=path) for path in READABLE_ADMIN_PATHS],
        ),
        overload_manager=overload(options.max_heap),
    )
    rendered = bootstrap.to_dict(casing=Casing.SNAKE)
    templates = cluster_templates(document)
    for item in rendered["static_resources"]["listeners"]:
        manager = item["filter_chains"][0]["filters"][0]["typed_config"]
        for host in manager.get("route_config", {}).get("virtual_hosts", ()):
            fill_in(host["routes"], document, templates)
    return rendered


def _metadata(document: Document, options: RenderOptions) -> Struct:
    """What Envoy says of the document that it was rendered from; see :mod:`abmesh.mesh.parts`."""
    found = parts.rendered(document, routes_file=bool(options.routes_file), warmup=options.warmup_endpoint is not None)
    metadata: Struct = Struct.from_dict(parts.node_metadata(found))
    return metadata


def _listeners(document: Document, options: RenderOptions) -> list[Listener]:
    warmup = options.warmup_endpoint
    return [listener(document, options), *([] if warmup is None else [warmup_listener(document, warmup)])]


def _runtime() -> LayeredRuntime:
    """Runtime settings that the native lane's matchers need.

    By default, Envoy refuses patterns larger than 100 instructions, and each letter of a cookie's name is one. Since
    1.39 it matches each value of a repeated header separately, so each of two identities would look like the only one;
    here it joins them with commas, as the server does.
    """
    wanted: dict[str, object] = {f"re2.max_program_size.{level}_level": LARGEST_PATTERN for level in ("error", "warn")}
    wanted["envoy.reloadable_features.match_headers_individually"] = False
    return LayeredRuntime(layers=[RuntimeLayer(name="abmesh", static_layer=Struct.from_dict(wanted))])
