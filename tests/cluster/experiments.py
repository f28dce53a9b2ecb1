"""Experiments on a real API server, for tests of what follows them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ruamel.yaml import YAML

from abmesh.kube.client import Client
from abmesh.kube.connection import Connection
from abmesh.kube.errors import KubeError, Missing
from abmesh.kube.kubeconfig import Headers
from abmesh.kube.resources import EXPERIMENTS, Resource
from tests.abmesh.kube.experiments import spec
from tests.cluster.waiting import wait_for
from tests.paths import ROOT

DEFINITION = ROOT / "charts" / "abmesh" / "files" / "experiments.abmesh.dev.yaml"
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")


def define(client: Client) -> None:
    """Install the CRD, and wait until its objects can be made and listed."""
    definition = YAML(typ="safe").load(DEFINITION.read_text())
    client.apply(DEFINITIONS, None, EXPERIMENTS.full_name, definition)
    wait_for(lambda: _listed(client), "Experiments that can be listed")


def undefine(client: Client) -> None:
    """Delete the CRD, and wait until it is gone with all its objects."""
    client.delete(DEFINITIONS, None, EXPERIMENTS.full_name)
    wait_for(lambda: not _defined(client), "the end of the CRD")


def _listed(client: Client) -> bool:
    with contextlib.suppress(KubeError):
        client.list(EXPERIMENTS)
        return True
    return False


def _defined(client: Client) -> bool:
    try:
        client.get(DEFINITIONS, None, EXPERIMENTS.full_name)
    except Missing:
        return False
    return True


@contextlib.contextmanager
def fresh_namespace(client: Client) -> Iterator[str]:
    """A namespace of its own; nobody waits for its end."""
    name = f"experiments-{secrets.token_hex(4)}"
    client.create(NAMESPACES, None, {"metadata": {"name": name}})
    yield name
    client.delete(NAMESPACES, None, name)


def put(client: Client, namespace: str, name: str, **changes: Any) -> dict[str, Any]:
    """Create or change an Experiment as a person does."""
    body = {
        "apiVersion": EXPERIMENTS.api_version,
        "kind": EXPERIMENTS.kind,
        "metadata": {"name": name},
        "spec": spec(**changes),
    }
    return client.apply(EXPERIMENTS, namespace, name, body, manager="person", force=True)


def acting_as(connection: Connection, user: str) -> Connection:
    """The same way, with somebody else's rights."""

    def headers() -> Headers:
        return [*connection.headers(), ("impersonate-user", user)]

    return replace(connection, headers=headers)


def allow(client: Client, namespace: str, user: str, *verbs: str) -> None:
    """Let a user do something with Experiments of a namespace; nothing, without verbs."""
    rule = {"apiGroups": [EXPERIMENTS.group], "resources": [EXPERIMENTS.plural], "verbs": list(verbs)}
    group = {"apiVersion": ROLES.api_version}
    role = {**group, "kind": "Role", "metadata": {"name": user}, "rules": [rule] if verbs else []}
    client.apply(ROLES, namespace, user, role, force=True)
    named = "rbac.authorization.k8s.io"
    binding = {
        **group,
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": named, "kind": "Role", "name": user},
        "subjects": [{"apiGroup": named, "kind": "User", "name": user}],
    }
    client.apply(BINDINGS, namespace, user, binding, force=True)
