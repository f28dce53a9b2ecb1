"""The CustomResourceDefinition of Experiments, made from the models. Pure.

``charts/abmesh/files`` holds its output, which a test compares; ``abmesh schema --kubernetes`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from abmesh.kube import yaml_out
from abmesh.kube.objects import GROUP, KIND, VERSION
from abmesh.kube.schema_fields import FORMS, LISTS
from abmesh.kube.schema_parts import PARTS
from abmesh.kube.schema_rules import OF_OBJECT, OF_SPEC, OF_STATUS
from abmesh.kube.schema_shape import Schema, structural
from abmesh.kube.spec import ExperimentSpec
from abmesh.kube.status import ExperimentStatus

_COLUMNS: Final = (
    ("Phase", "string", ".status.phase", "where the rollout is"),
    ("Candidate", "string", ".spec.rollout.candidate", "the variant that is rolled out"),
    ("Weight", "string", ".status.candidateWeight", "the candidate's weight in force"),
    ("Stage", "date", ".status.stage.since", "how long the stage has lasted"),
    ("Healthy", "string", '.status.conditions[?(@.type=="Healthy")].status', "whether every guardrail is kept"),
    ("Reason", "string", ".status.reason", "why it is there"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
)
"""What ``kubectl get`` prints: name, type, path and description."""

_WIDE: Final = (
    ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', "whether the spec can be served"),
    ("Programmed", "string", '.status.conditions[?(@.type=="Programmed")].status', "whether the routes are split"),
    ("Lane", "string", ".spec.lane", "who assigns"),
)
"""What ``kubectl get -o wide`` prints too."""

_STATUS_LISTS: Final[dict[str, dict[str, Any]]] = {
    "conditions": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    "plan.steps": {"x-kubernetes-list-type": "atomic"},
}

_WHAT_IT_IS: Final = (
    "An Experiment splits the traffic of a route between versions of a model, and rolls one of them out."
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"experiments.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": "experiments",
                "singular": "experiment",
                "kind": KIND,
                "listKind": f"{KIND}List",
                "shortNames": ["abx"],
                "categories": ["abmesh"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        *(_column(*column) for column in _COLUMNS[:-1]),
                        *(_column(*column) | {"priority": 1} for column in _WIDE),
                        _column(*_COLUMNS[-1]),
                    ],
                    "selectableFields": [{"jsonPath": ".spec.lane"}, {"jsonPath": ".status.phase"}],
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def text() -> str:
    """The CustomResourceDefinition as YAML, to be applied or committed."""
    head = "# Made by `abmesh schema --kubernetes` from the models of abmesh.kube; do not edit.\n"
    return head + yaml_out.dump([definition()])


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path}
    return column | {"description": description} if description else column


def _schema() -> Schema:
    spec, status = structural(ExperimentSpec), structural(ExperimentStatus)
    for extra in (FORMS, LISTS):
        _add(spec, extra)
    _add(
        spec, {path: {"x-kubernetes-validations": [rule.written() for rule in rules]} for path, rules in PARTS.items()}
    )
    _add(status, _STATUS_LISTS)
    spec["x-kubernetes-validations"] = [rule.written() for rule in OF_SPEC]
    status["x-kubernetes-validations"] = [rule.written() for rule in OF_STATUS]
    return {
        "type": "object",
        "description": _WHAT_IT_IS,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [rule.written() for rule in OF_OBJECT],
    }


def _add(schema: Schema, extra: Mapping[str, Mapping[str, Any]]) -> None:
    """Add what is said of the fields at some paths, such as ``unit[].header``."""
    for path, more in extra.items():
        _at(schema, path).update(more)


def _at(schema: Schema, path: str) -> Schema:
    here = schema
    for step in path.split("."):
        name = step.removesuffix("[]")
        here = here["properties"][name]
        if step != name:
            here = here["items"]
    return here
