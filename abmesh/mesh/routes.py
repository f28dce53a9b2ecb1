"""The route table: requests that the server assigned, then those that Envoy assigns itself, then all others. Pure.

Called by :mod:`abmesh.mesh.listener`, and by :mod:`controller.routes` for the file that Envoy reads its routes from.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from betterproto2 import Casing
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)

from abmesh.experiment import names
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Variant
from abmesh.mesh.answers import answers_of_route
from abmesh.mesh.events import event_routes
from abmesh.mesh.ext_proc_filter import SET_BY_SERVER
from abmesh.mesh.matches import equals, request_match
from abmesh.mesh.native import ClusterTemplates, cluster_templates, fill_in, native_routes
from abmesh.mesh.variants import evidence_metadata, to_cluster, to_variant, version_header

NAME: Final = "abmesh"
UNMATCHED: Final = "unmatched"
"""Name of the route for requests that match no experiment."""

_TYPE: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_ASSIGNMENT: Final = [name for name in SET_BY_SERVER if name.startswith((names.MODEL_VERSION, names.TRUSTED_PREFIX))]


def route_configuration(document: Document) -> RouteConfiguration:
    """One virtual host that serves every domain."""
    assigned = [
        _assigned(document, experiment, variant)
        for experiment in document.experiments
        for variant in experiment.variants
    ]
    # The first experiment that matches wins, whatever its lane.
    others = [
        route
        for experiment in document.experiments
        for route in (*native_routes(document, experiment), _unassigned(document, experiment))
    ]
    host = VirtualHost(
        name=NAME,
        domains=["*"],
        routes=[*event_routes(document), *assigned, *others, _unmatched(document)],
        response_headers_to_add=[
            HeaderValueOption(
                header=HeaderValue(
                    key="set-cookie",
                    value=f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:{names.METADATA_SET_COOKIE})%",
                ),
                append_action=HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD,
            )
        ],
    )
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


def variant_route_name(experiment: str, variant: str) -> str:
    """Name of the route for requests that were assigned a variant."""
    return f"{experiment}/{variant}"


def unassigned_route_name(experiment: str) -> str:
    """Name of the route for requests that match an experiment but were not assigned."""
    return f"{experiment}/unassigned"


def assigned_match(experiment: Experiment, variant: Variant) -> RouteMatch:
    """Requests whose headers name a variant, whatever their path."""
    conditions = [equals(names.EXPERIMENT, experiment.name), equals(names.MODEL_VERSION, variant.name)]
    return RouteMatch(prefix="/", headers=conditions)


def _assigned(document: Document, experiment: Experiment, variant: Variant) -> Route:
    """The route for requests that the server assigned to a variant.

    It does not test the experiment's match again: clients cannot send these headers, and the server may have read an
    edit of the match that this Envoy has not. Only requests on a route with our metadata are evidence, and only the
    variant's own route names the variant on its answers.
    """
    return Route(
        name=variant_route_name(experiment.name, variant.name),
        match=assigned_match(experiment, variant),
        route=to_variant(document, variant),
        metadata=evidence_metadata(experiment),
        typed_per_filter_config=answers_of_route(experiment),
        response_headers_to_add=[version_header(variant.name)],
    )


def _unassigned(document: Document, experiment: Experiment) -> Route:
    """The control, for requests whose assignment is missing or names a variant that this Envoy does not know.

    An unknown assignment is removed, so that the control is not addressed as another variant. A version that the
    upstream claims is removed from its answers.
    """
    return Route(
        name=unassigned_route_name(experiment.name),
        match=request_match(experiment.match),
        route=to_variant(document, experiment.control),
        request_headers_to_remove=_ASSIGNMENT,
        response_headers_to_remove=[names.MODEL_VERSION],
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
        request_headers_to_remove=_ASSIGNMENT,
        response_headers_to_remove=[names.MODEL_VERSION],
    )
