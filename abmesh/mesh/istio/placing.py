"""Experiments of a cluster as the renderer takes them. Pure."""

from __future__ import annotations

from abmesh.experiment.model import Experiment
from abmesh.kube.spec import ExperimentSpec
from abmesh.mesh.istio.wanted import Callers, Kind, Placed, RouteRef
from abmesh.mesh.merge.pieces import Unassigned


def place(namespace: str, spec: ExperimentSpec, experiment: Experiment, created: str = "") -> Placed:
    """An Experiment with the routes that its spec names, all in its own namespace.

    Args:
        namespace: the object's.
        spec: what people wrote.
        experiment: what it stands for.
        created: the object's ``creationTimestamp``.
    """
    routes = [RouteRef(Kind(route.kind), namespace, route.name, route.rule or "") for route in spec.routes]
    callers = Callers()
    if (said := spec.callers) is not None:
        labels = said.selector.match_labels if said.selector is not None else {}
        callers = Callers(said.namespaces or (), labels, everyone=bool(said.all))
    unassigned = Unassigned(spec.unassigned) if spec.unassigned is not None else None
    return Placed(experiment, tuple(routes), unassigned, callers, created)
