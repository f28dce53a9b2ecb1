"""Namespaces of tests' own, where pods may be made."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator

from tests.cluster.cluster import Cluster
from tests.cluster.waiting import wait_for


@contextlib.contextmanager
def fresh(cluster: Cluster, title: str) -> Iterator[str]:
    """A namespace with a name that tells whose it is. Nobody waits for its end."""
    readable = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].rstrip("-")
    name = f"{readable}-{secrets.token_hex(3)}"
    cluster.plane.kubectl("create", "namespace", name)
    accounts = ("get", "serviceaccounts", "--output", "name")
    wait_for(lambda: "default" in cluster.plane.kubectl(*accounts, namespace=name), "the namespace's account")
    yield name
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")
