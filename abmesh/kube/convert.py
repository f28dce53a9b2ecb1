"""Experiments of a file as objects, and objects as a file: the same model in its two forms. Pure.

What has a place in both comes through unchanged. Everything else is refused by name, with what to do about it, and is
left out only where the caller says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from abmesh.experiment.errors import ConvertError
from abmesh.experiment.forms import AS_FILE, AS_OBJECT
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import Cluster
from abmesh.kube.objects import API_VERSION, KIND, ParsedObject
from abmesh.kube.spec import ExperimentSpec, from_experiment
from abmesh.kube.spec_parts import Backend, RouteRef

_OF_DOCUMENT: Final = {
    "default_cluster": "in a cluster, requests that match no experiment stay with your own route",
    "event_origins": "a setting of the chart for all Experiments: set it there",
    "journal": "a setting of the chart for all Experiments: set it there",
}
"""Fields of a document that no single object has, and where what they say belongs."""

_LABEL: Final = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVICE: Final = re.compile(rf"([a-z](?:[-a-z0-9]{{0,61}}[a-z0-9])?)(?:\.({_LABEL}))?(?:\.svc(?:\.cluster\.local)?)?")


def to_objects(
    document: Document,
    namespace: str,
    routes: Sequence[RouteRef],
    backends: Mapping[str, Backend] | None = None,
    without: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The objects of a document's experiments, in their order.

    Args:
        document: what the file holds.
        namespace: where the objects will be.
        routes: whose traffic is split; a file does not know them.
        backends: the Services of clusters; those whose host is a Service's name need not be among them.
        without: fields to leave out that an object has no place for.

    Raises:
        ConvertError: something has no place in an object; says what, and what to do about it.
    """
    problems = [
        f"{field}: {meaning}; then add --without {field}"
        for field, meaning in _OF_DOCUMENT.items()
        if field in document.model_fields_set and getattr(document, field) and field not in without
    ]
    known = {**_services(document.clusters or {}, namespace), **(backends or {})}
    objects = []
    if not routes:
        problems.append("routes: a file does not say whose traffic is split; say it with --route HTTPRoute/NAME/RULE")
    else:
        for experiment in document.experiments:
            try:
                spec = from_experiment(namespace, experiment, routes, known, tuple(without))
            except ConvertError as error:
                problems.extend(error.problems)
            else:
                objects.append(to_object(namespace, experiment.label, spec))
    if problems:
        raise ConvertError(tuple(problems))
    return objects


def to_object(namespace: str, name: str, spec: ExperimentSpec) -> dict[str, Any]:
    """An object as people apply it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True, context=AS_OBJECT),
    }


def to_document(objects: Sequence[ParsedObject], without: Collection[str] = ()) -> dict[str, Any]:
    """The document of some objects' specs, as plain data that a file holds.

    Args:
        objects: what was read.
        without: fields to leave out that a file has no place for.

    Raises:
        ConvertError: something has no place in a file; says what, and what to do about it.
    """
    problems: list[str] = []
    names: dict[str, str] = {}
    for item in objects:
        problems += [f"{item.namespace}/{item.name}: {text}" for text in _without_a_place(item.spec, without)]
        if item.name in names:
            message = f"{names[item.name]}/{item.name} has the same name, and a file has no namespaces; rename one"
            problems.append(f"{item.namespace}/{item.name}: {message}")
        names[item.name] = item.namespace
    if problems:
        raise ConvertError(tuple(problems))
    return {"version": 1, "experiments": [_in_a_file(item.experiment) for item in objects]}


def _in_a_file(experiment: Experiment) -> dict[str, Any]:
    bare = experiment.model_copy(update={"name": experiment.label})
    written: dict[str, Any] = bare.model_dump(
        mode="json", by_alias=False, exclude_unset=True, exclude_none=True, context=AS_FILE
    )
    return {"name": written.pop("name"), **written}


def _without_a_place(spec: ExperimentSpec, without: Collection[str]) -> Iterator[str]:
    """What a file cannot hold, with what to do."""
    found: dict[str, list[str]] = {
        "routes": ["routes"],
        "callers": ["callers"] if spec.callers is not None else [],
        "unassigned": ["unassigned"] if spec.unassigned is not None else [],
        "manage": ["manage"] if not spec.manage else [],
        "run": ["rollout.run"] if spec.rollout is not None and spec.rollout.run is not None else [],
    }
    for field, name in (("min_ready", "minReady"), ("capacity", "capacity")):
        given = [place for place, variant in enumerate(spec.variants) if getattr(variant, field) is not None]
        found[name] = [f"variants[{place}].{name}" for place in given]
    for name, paths in found.items():
        if paths and name not in without:
            yield f"{', '.join(paths)}: {_INSTEAD[name]}; then add --without {name}"


_INSTEAD: Final = {
    "routes": "a file knows no routes: merge it into your Envoy with abmesh render envoy --into",
    "callers": "a file knows no sidecars: render it for each Envoy that splits",
    "unassigned": "with a file it is the route that you merge into that decides",
    "manage": "with a file nothing is managed",
    "run": "with a file a new run begins with abmesh resume",
    "minReady": "without Kubernetes nobody counts replicas",
    "capacity": "without Kubernetes nobody counts replicas",
}


def _services(clusters: Mapping[str, Cluster], namespace: str) -> dict[str, Backend]:
    """The Services of clusters whose host is a Service's name; a cluster's TLS is Istio's matter in an object."""
    found = {}
    for name, cluster in clusters.items():
        host = _SERVICE.fullmatch(cluster.host)
        if host is not None and cluster.tls is None:
            where = host[2] if host[2] not in (None, namespace) else None
            found[name] = Backend(service=host[1], port=cluster.port, namespace=where)
    return found
