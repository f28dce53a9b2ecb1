"""What every way to a variant has: cluster, host, time limits, and the headers that go with it. Pure.

Shared by places (:mod:`abmesh.mesh.places`), the routes on which Envoy assigns requests itself
(:mod:`abmesh.mesh.native`) and those of warm-up requests (:mod:`abmesh.mesh.warmup`), so that the three cannot differ.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import RouteAction

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Variant
from abmesh.mesh.clusters import server_name
from abmesh.mesh.edge import STREAM_IDLE


def to_variant(document: Document, experiment: Experiment, variant: Variant) -> RouteAction:
    """The cluster of a variant's requests, with their time limits."""
    action = to_cluster(document, variant.cluster)
    # Envoy's default is 15 s, too short for most answers of a language model; 0 means no limit.
    action.timeout = variant.timeout or timedelta()
    action.idle_timeout = idle_limit(experiment)
    return action


def idle_limit(experiment: Experiment) -> timedelta | None:
    """How long an experiment's requests may be idle; None for :data:`STREAM_IDLE`.

    It belongs to the route that the variants share, so the longest time limit decides.
    """
    longest = max((variant.timeout for variant in experiment.variants if variant.timeout), default=STREAM_IDLE)
    return longest if longest > STREAM_IDLE else None


def common_timeout(experiment: Experiment) -> timedelta | None:
    """The time limit that all variants share, 0 for none; None if they differ."""
    limits = {variant.timeout or timedelta() for variant in experiment.variants}
    return limits.pop() if len(limits) == 1 else None


def timeout_header(variant: Variant) -> dict[str, str]:
    """The request header that carries a variant's time limit; empty if it has none."""
    if variant.timeout is None:
        return {}
    return {names.UPSTREAM_TIMEOUT: str(round(variant.timeout.total_seconds() * 1000))}


def to_cluster(document: Document, name: str) -> RouteAction:
    """Where requests for a cluster go."""
    # A server refuses a request whose Host differs from the name asked for over TLS.
    return RouteAction(cluster=name, host_rewrite_literal=host_of(document, name))


def host_of(document: Document, name: str) -> str | None:
    """The host to ask a cluster's server for; None for the one that the client asked for."""
    cluster = (document.clusters or {}).get(name)
    return None if cluster is None else server_name(cluster)


def version_header(variant: str) -> HeaderValueOption:
    """The header that names the variant, on its answers."""
    return overwrite_header(names.MODEL_VERSION, variant)


def issued_cookie() -> HeaderValueOption:
    """The cookie of a new identity, on its answer; our server passes it on as metadata. Nothing without one."""
    cookie = f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:{names.METADATA_SET_COOKIE})%"
    return add_header("set-cookie", cookie)


def add_header(name: str, value: str) -> HeaderValueOption:
    """A header beside any that is already there. Of our own request headers the listener has removed what clients sent.

    Looking for one would take Envoy a microsecond for every few headers.
    """
    action = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)


def overwrite_header(name: str, value: str) -> HeaderValueOption:
    """A header in place of any that is already there."""
    action = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action)
