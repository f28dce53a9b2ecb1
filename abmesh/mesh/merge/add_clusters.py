"""Adding the clusters that a file lacks, and refusing those of the same name that lead elsewhere. Pure."""

from __future__ import annotations

from typing import Final

from abmesh.experiment import names
from abmesh.experiment.errors import RenderError, UnknownName
from abmesh.experiment.model import Document
from abmesh.mesh.merge.look import get, items, text
from abmesh.mesh.merge.pieces import Json, Pieces
from abmesh.mesh.merge.splice import Editor
from abmesh.mesh.merge.tree import Mapping, Node

ADDED: Final[Json] = {"filter_metadata": {names.METADATA_NAMESPACE: {"added": "yes"}}}
"""Metadata of a cluster or a route that is ours, so that it can be found again."""


def add_clusters(editor: Editor, document: Document, pieces: Pieces) -> list[str]:
    """Add the clusters that the file does not have.

    Raises:
        RenderError: it has one of the same name that leads elsewhere.
    """
    resources = get(editor.root, "static_resources")
    assert isinstance(resources, Mapping)  # a listener was found in it
    theirs = {text(item, "name"): item for item in items(resources, "clusters")}
    rendered = {cluster["name"] for cluster in pieces.clusters}
    variants = {variant.cluster for item in document.experiments for variant in item.variants}
    for name in sorted(variants):
        if name not in theirs and name not in rendered:
            raise UnknownName("cluster", name, tuple(theirs))
    added, notes = [], []
    for cluster in pieces.clusters:
        name = cluster["name"]
        if name not in theirs:
            added.append(cluster)
            continue
        here, there = _endpoints(theirs[name]), _rendered_endpoints(cluster)
        if here is not None and here != there:
            raise RenderError(
                f"{editor.source}:{theirs[name].line}: cluster {name!r} leads to {', '.join(here)} here, and to "
                f"{', '.join(there)} by the document; rename one of them"
            )
        notes.append(f"cluster {name!r} is already there and stays as it is")
    if added:
        editor.put(resources, ["clusters"], [_marked(cluster) for cluster in added])
    if pieces.listeners:
        editor.put(resources, ["listeners"], list(pieces.listeners))
    return notes


def _marked(cluster: Json) -> Json:
    if cluster["name"] == names.EXT_PROC_CLUSTER:
        return cluster
    return cluster | {"metadata": ADDED}


def _endpoints(cluster: Node) -> list[str] | None:
    """Addresses of a cluster in the file; None if it does not say them."""
    found = []
    for group in items(cluster, "load_assignment", "endpoints"):
        for endpoint in items(group, "lb_endpoints"):
            address = get(endpoint, "endpoint", "address")
            pipe = text(address, "pipe", "path")
            socket = get(address, "socket_address")
            found.append(pipe or f"{text(socket, 'address')}:{text(socket, 'port_value')}")
    return sorted(found) or None


def _rendered_endpoints(cluster: Json) -> list[str]:
    found = []
    for group in cluster["load_assignment"]["endpoints"]:
        for endpoint in group["lb_endpoints"]:
            address = endpoint["endpoint"]["address"]
            socket = address.get("socket_address")
            found.append(f"{socket['address']}:{socket['port_value']}" if socket else address["pipe"]["path"])
    return sorted(found)
