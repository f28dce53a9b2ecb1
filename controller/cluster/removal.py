"""Takes abmesh out of a cluster's proxies: what ``abmesh uninstall`` does, before the controller itself goes.

1. Take the Lease, whoever leads, and keep it: nobody makes anew what is deleted.
2. Delete abmesh's EnvoyFilters.
3. Look again once the leader before, frozen or not, has surely stopped acting, and delete what it wrote meanwhile.

Each step may be repeated. If one fails, the Lease is given back, and the controller goes on.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import AlreadyExists, Forbidden, KubeError, Missing, Stale
from abmesh.kube.resources import ENVOY_FILTERS, LEASES
from controller.cluster.lease import USUAL
from controller.cluster.names import LABELS, LEASE

KEPT_SECONDS: Final = 120
"""How long the Lease is kept: until the controller's pods are gone, but not until somebody installs it again."""

_MANAGED: Final = "app.kubernetes.io/managed-by"
_ATTEMPTS: Final = 20


def remove(
    client: Client,
    own: str,
    owner: str,
    namespaces: Sequence[str],
    tell: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Take abmesh out.

    Args:
        client: to the API server.
        own: abmesh's namespace.
        owner: the ClusterRole that owns abmesh's EnvoyFilters; others' are left alone.
        namespaces: where EnvoyFilters are.
        tell: says what is done.
        sleep: waits.

    Raises:
        StateError: the Lease cannot be taken, or EnvoyFilters come back.
        KubeError: a right is missing, or the API server does not answer. All namespaces are tried first.
    """
    lease, before = _take(client, own)
    tell(f"took the Lease {own}/{LEASE}{f' from {before}' if before else ''}")
    try:
        deleted = _delete(client, owner, namespaces, tell)
        if before:
            sleep(USUAL.deadline)
            deleted += _delete(client, owner, namespaces, tell)
    except BaseException:
        with suppress(KubeError):  # it runs out by itself
            client.replace(LEASES, own, LEASE, _body(own, lease, ""))
        raise
    tell(f"deleted {deleted} EnvoyFilters; Experiments stay")


def _take(client: Client, own: str) -> tuple[dict[str, Any], str]:
    """The Lease, taken, and who held it."""
    identity = f"uninstall-{secrets.token_hex(3)}"
    for _ in range(_ATTEMPTS):
        try:
            present = client.get(LEASES, own, LEASE)
        except Missing:
            with suppress(AlreadyExists):
                return client.create(LEASES, own, _body(own, None, identity)), ""
            continue
        with suppress(Stale, Missing):  # its holder has just renewed it
            taken = client.replace(LEASES, own, LEASE, _body(own, present, identity))
            return taken, str((present.get("spec") or {}).get("holderIdentity") or "")
    raise StateError(f"the Lease {own}/{LEASE} changes again and again; try again")


def _body(own: str, present: dict[str, Any] | None, holder: str) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = dict((present or {}).get("spec") or {})
    if holder:
        spec |= {"holderIdentity": holder, "acquireTime": now, "leaseDurationSeconds": KEPT_SECONDS}
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
    else:
        spec.pop("holderIdentity", None)
    spec["renewTime"] = now
    metadata: dict[str, Any] = {"name": LEASE, "namespace": own, "labels": dict(LABELS)}
    if present is not None:
        metadata = {key: value for key, value in present["metadata"].items() if key != "managedFields"}
    return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def _delete(client: Client, owner: str, namespaces: Sequence[str], tell: Callable[[str], None]) -> int:
    """Delete what is abmesh's in all namespaces; how many there were."""
    deleted, refused = 0, list[Forbidden]()
    for namespace in namespaces:
        try:
            for item in _ours(client, owner, namespace, tell):
                metadata = item["metadata"]
                with suppress(Missing, Stale):  # deleted meanwhile
                    client.delete(ENVOY_FILTERS, namespace, metadata["name"], uid=metadata["uid"])
                    tell(f"deleted EnvoyFilter {namespace}/{metadata['name']}")
                    deleted += 1
        except Forbidden as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return deleted


def _ours(client: Client, owner: str, namespace: str, tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    try:
        listed = client.list(ENVOY_FILTERS, namespace, labels=f"{_MANAGED}={LABELS[_MANAGED]}")
    except Missing:
        return  # Istio is gone, and its EnvoyFilters with it
    for item in listed.items:
        owners = item["metadata"].get("ownerReferences") or ()
        if any(each.get("kind") == "ClusterRole" and each.get("name") == owner for each in owners):
            yield item
        else:
            whose = ", ".join(f"{each.get('kind')} {each.get('name')}" for each in owners) or "nobody, so perhaps Git's"
            tell(f"left EnvoyFilter {namespace}/{item['metadata']['name']}: its owner is {whose}, not {owner}")
