"""What every route to a variant has: cluster, time limits, and the metadata that makes its requests evidence. Pure.

Shared by the routes that the server chooses (:mod:`abmesh.mesh.routes`), those that Envoy chooses itself
(:mod:`abmesh.mesh.native`) and those of warm-up requests (:mod:`abmesh.mesh.warmup`), so that the three cannot differ.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Metadata,
)
from envoy_data_plane.envoy.config.route.v3 import RouteAction
from envoy_data_plane.google.protobuf import Struct

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Variant
from abmesh.mesh.clusters import server_name

STREAM_IDLE: Final = timedelta(minutes=5)
"""How long a request may be idle before Envoy ends it; a variant with a longer timeout gets that timeout instead."""


def to_variant(document: Document, variant: Variant) -> RouteAction:
    """The cluster of a variant's requests, with their time limits."""
    action = to_cluster(document, variant.cluster)
    # Envoy's default is 15 s, too short for most answers of a language model; 0 means no limit.
    action.timeout = variant.timeout or timedelta()
    action.idle_timeout = idle_limit(variant)
    return action


def idle_limit(variant: Variant) -> timedelta | None:
    """How long a variant's requests may be idle; None for :data:`STREAM_IDLE`."""
    return variant.timeout if variant.timeout is not None and variant.timeout > STREAM_IDLE else None


def to_cluster(document: Document, name: str) -> RouteAction:
    """Where requests for a cluster go."""
    # A server refuses a request whose Host differs from the name asked for over TLS.
    return RouteAction(cluster=name, host_rewrite_literal=host_of(document, name))


def host_of(document: Document, name: str) -> str | None:
    """The host to ask a cluster's server for; None for the one that the client asked for."""
    cluster = (document.clusters or {}).get(name)
    return None if cluster is None else server_name(cluster)


def evidence_metadata(experiment: Experiment) -> Metadata:
    """Metadata of a route that makes its requests evidence for an experiment."""
    return Metadata(
        filter_metadata={names.METADATA_NAMESPACE: Struct.from_dict({names.TAG_EXPERIMENT: experiment.name})}
    )


def version_header(variant: str) -> HeaderValueOption:
    """The header that names the variant, on its answers."""
    return overwrite_header(names.MODEL_VERSION, variant)


def add_header(name: str, value: str) -> HeaderValueOption:
    """One of our own request headers. The listener has removed what clients sent, so there is none to overwrite.

    Looking for one would take Envoy a microsecond for every few headers.
    """
    action = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def overwrite_header(name: str, value: str) -> HeaderValueOption:
    """A header in place of any that is already there."""
    action = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)
