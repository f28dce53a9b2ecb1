"""Experiments as the API server gives them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

_versions = itertools.count(1000)


def spec(**changes: Any) -> dict[str, Any]:
    """A valid spec, with some fields changed."""
    weights: Mapping[str, float] = changes.pop("weights", {"model-a": 90, "model-b": 10})
    return {
        "routes": [{"kind": "HTTPRoute", "name": "chat", "rule": "v1"}],
        "match": {"pathPrefix": "/v1/"},
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {
                "name": name,
                "backend": {"service": name, "port": 8000},
                "weight": weight,
                **({"control": True} if place == 0 else {}),
            }
            for place, (name, weight) in enumerate(weights.items())
        ],
        **changes,
    }


def stored(name: str, /, **changes: Any) -> dict[str, Any]:
    """An Experiment of the API server: changes to its spec, and ``namespace``, ``uid``, ``created``, ``generation`` and
    ``status``.
    """
    namespace = changes.pop("namespace", "llm")
    uid, created = changes.pop("uid", f"uid-{name}"), changes.pop("created", "2026-01-01T00:00:00Z")
    metadata = {"uid": uid, "creationTimestamp": created, "generation": changes.pop("generation", 1)}
    status = changes.pop("status", None)
    return {
        "apiVersion": "abmesh.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": str(next(_versions)), **metadata},
        "spec": changes.pop("spec", None) or spec(**changes),
        **({"status": status} if status is not None else {}),
    }
