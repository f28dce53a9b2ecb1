"""The route table: feedback events, then each experiment, then all other requests. Pure.

Called by :mod:`abmesh.mesh.listener`, and by :mod:`controller.routes` for the file that Envoy reads its routes from.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedClusterClusterWeight,
)

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.mesh.answers import reads_no_answers
from abmesh.mesh.events import event_routes
from abmesh.mesh.ext_proc_filter import asks_server
from abmesh.mesh.filters import HEADERS, sets_headers
from abmesh.mesh.matches import request_match
from abmesh.mesh.native import ClusterTemplates, cluster_templates, fill_in, native_routes
from abmesh.mesh.places import own_destination, variant_entries, weighted_clusters
from abmesh.mesh.variants import common_timeout, host_of, idle_limit, issued_cookie, timeout_header, to_cluster

NAME: Final = "abmesh"
UNMATCHED: Final = "unmatched"
"""Name of the route for requests that match no experiment."""

_TYPE: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def route_configuration(document: Document) -> RouteConfiguration:
    """One virtual host that serves every domain."""
    # The first experiment that matches wins, whatever its lane.
    experiments = [
        route
        for experiment in document.experiments
        for route in (*native_routes(document, experiment), _places(document, experiment))
    ]
    host = VirtualHost(name=NAME, domains=["*"], routes=[*event_routes(document), *experiments, _unmatched(document)])
    return RouteConfiguration(name=NAME, virtual_hosts=[host])


class RoutesRenderer:
    """Renders one document after another as the content of a file that Envoy watches.

    Successive documents mostly differ in their weights. Everything else is rendered once, since it takes ten times as
    long.
    """

    def __init__(self) -> None:
        self._made: tuple[Document, dict[str, Any], ClusterTemplates] | None = None

    def render(self, document: Document, version: str = "") -> dict[str, Any]:
        """The file's content, in the JSON form of Envoy's messages; the next call changes it.

        Args:
            document: what to render.
            version: shown as the routes' version by Envoy's admin endpoint: the document's generation.
        """
        alike = _without_weights(document)
        if self._made is None or self._made[0] != alike:
            self._made = alike, _resource(document), cluster_templates(document)
        _, resource, templates = self._made
        for host in resource["virtual_hosts"]:
            fill_in(host["routes"], document, templates)
        return {"version_info": version, "resources": [resource]}


def _resource(document: Document) -> dict[str, Any]:
    routes = route_configuration(document)
    # If a route leads to a cluster that this Envoy does not have, it refuses the whole table and keeps the last good
    # one. Otherwise requests for a variant that was added after Envoy started would get 503.
    routes.validate_clusters = True
    return {"@type": _TYPE, **routes.to_dict(casing=Casing.SNAKE)}


def _without_weights(document: Document) -> Document:
    experiments = [
        experiment.model_copy(
            update={
                "variants": tuple(variant.model_copy(update={"weight": 0}) for variant in experiment.variants),
                "ranges": None,
            }
        )
        for experiment in document.experiments
    ]
    return document.model_copy(update={"experiments": tuple(experiments)})


def _places(document: Document, experiment: Experiment) -> Route:
    """An experiment's requests: to the variant whose place the server names, all others to the control.

    The route is matched before the server is asked and once more after that, so a server that has read a newer
    ``match`` assigns nobody whom this Envoy would not have asked about.
    """
    return Route(
        name=experiment.name,
        match=request_match(experiment.match),
        route=RouteAction(
            weighted_clusters=weighted_clusters(
                variant_entries(document, experiment, experiment.name), _unassigned(document, experiment)
            ),
            timeout=common_timeout(experiment) or timedelta(),
            idle_timeout=idle_limit(experiment),
        ),
        typed_per_filter_config={**asks_server(), **reads_no_answers()},
        response_headers_to_add=[issued_cookie()],
    )


def _unassigned(document: Document, experiment: Experiment) -> WeightedClusterClusterWeight:
    """The control, with its own time limit where the variants share none: no server is there to say it."""
    control = experiment.control
    limits = {} if common_timeout(experiment) is not None else timeout_header(control)
    return own_destination(
        control.cluster,
        experiment.name,
        host=host_of(document, control.cluster),
        filters={HEADERS: sets_headers(limits)} if limits else {},
    )


def _unmatched(document: Document) -> Route:
    match = RouteMatch(prefix="/")
    if document.default_cluster is None:
        return Route(name=UNMATCHED, match=match, direct_response=DirectResponseAction(status=404))
    action = to_cluster(document, document.default_cluster)
    action.timeout = timedelta()
    return Route(
        name=UNMATCHED,
        match=match,
        route=action,
        response_headers_to_remove=[names.MODEL_VERSION],
    )
