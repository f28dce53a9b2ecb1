"""What leads to a variant, whoever assigned it: cluster, time limits, what marks it as evidence. Pure.

:mod:`abmesh.mesh.routes` puts it on the routes that the server chooses, :mod:`abmesh.mesh.native` on those that Envoy
chooses itself, and :mod:`abmesh.mesh.warmup` on those of warm-up requests, so that the three cannot differ.
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
"""How long a request may stand still before Envoy ends it; a variant with a longer time limit gets that."""


def to_variant(document: Document, variant: Variant) -> RouteAction:
    """Where a variant's requests lead, with its time limit."""
    action = to_cluster(document, variant.cluster)
    # Envoy's own default is 15 s, which ends most answers of a language model; 0 means no limit.
    action.timeout = variant.timeout or timedelta()
    action.idle_timeout = idle_limit(variant)
    return action


def idle_limit(variant: Variant) -> timedelta | None:
    """How long a variant's requests may stand still, where that is longer than for all others."""
    return variant.timeout if variant.timeout is not None and variant.timeout > STREAM_IDLE else None


def to_cluster(document: Document, name: str) -> RouteAction:
    """Where requests for a cluster lead."""
    # A server asked for one name over TLS and for another in Host refuses.
    return RouteAction(cluster=name, host_rewrite_literal=host_of(document, name))


def host_of(document: Document, name: str) -> str | None:
    """The host that a cluster's server is to be asked for; None for the one that the client asked for."""
    cluster = (document.clusters or {}).get(name)
    return None if cluster is None else server_name(cluster)


def evidence_of(experiment: Experiment) -> Metadata:
    """Metadata of a route whose requests are an experiment's; only those are evidence."""
    return Metadata(
        filter_metadata={names.METADATA_NAMESPACE: Struct.from_dict({names.TAG_EXPERIMENT: experiment.name})}
    )


def stamp(variant: str) -> HeaderValueOption:
    """What a variant's answers say."""
    return overwriting(names.MODEL_VERSION, variant)


def told(name: str, value: str) -> HeaderValueOption:
    """A header of ours on a request; the listener has removed what clients say of it, so there is none to overwrite.

    Looking for one takes Envoy a microsecond for every few headers.
    """
    action = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def overwriting(name: str, value: str) -> HeaderValueOption:
    """A header in place of whatever there is of it."""
    action = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)
