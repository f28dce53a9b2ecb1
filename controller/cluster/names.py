"""Names of the objects that the controller keeps in its own namespace, and of annotations. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

LEASE: Final = "abmesh"
"""Name of the Lease."""

INDEX: Final = "abmesh-experiments"
"""Name of the ConfigMap that says of which Experiments the others are."""

REQUEST: Final = "abmesh.dev/request"
"""Annotation of an Experiment with a person's request, as JSON."""

EXPERIMENT: Final = "abmesh.dev/experiment"
"""Annotation of a ConfigMap: of which Experiment it is, as ``NAMESPACE/NAME``."""

UID: Final = "abmesh.dev/experiment-uid"
"""Annotation of a ConfigMap: the uid of that Experiment."""

EPOCH: Final = "abmesh.dev/epoch"
"""Annotation of a ConfigMap: the epoch of the leader that wrote it."""

LABELS: Final[Mapping[str, str]] = {"app.kubernetes.io/name": "abmesh", "app.kubernetes.io/managed-by": "abmesh"}


def digest(experiment: str) -> str:
    """What stands for an experiment's ``NAMESPACE/NAME`` in the name of an object: 16 hex digits."""
    return xxh3_64_hexdigest(experiment.encode())


def evidence_map(experiment: str) -> str:
    """Name of the ConfigMap with an experiment's evidence."""
    return f"evidence-{digest(experiment)}"


def journal_map(experiment: str) -> str:
    """Name of the ConfigMap with an experiment's newest journal entries."""
    return f"journal-{digest(experiment)}"


def state_map(experiment: str) -> str:
    """Name of the ConfigMap with what outlives an Experiment."""
    return f"state-{digest(experiment)}"


def full_name(thing: Mapping[str, Any]) -> str:
    """The name of an Experiment inside abmesh: ``NAMESPACE/NAME``."""
    metadata = thing["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def split(experiment: str) -> tuple[str, str]:
    """Namespace and name of an experiment."""
    namespace, _, name = experiment.partition("/")
    return namespace, name
