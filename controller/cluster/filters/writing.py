"""Writes filters to the API server, and what is remembered of them. Blocks; called in a thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Missing, Stale
from abmesh.kube.resources import CLUSTER_ROLES, ENVOY_FILTERS
from controller.cluster.filters.memory import DATA, Key, Memory, packed, unpacked
from controller.cluster.filters.plan import Owner
from controller.cluster.lease import Fence
from controller.cluster.maps import Maps
from controller.cluster.objects import in_words

MAP: Final = "abmesh-filters"
"""Name of the ConfigMap with what is remembered."""

MANAGER: Final = "abmesh"


class Writer:
    """Writes, if this process leads.

    Args:
        client: to the API server.
        namespace: the controller's own.
        fence: this process's right to write.
        owner: name of the ClusterRole that owns the filters; empty: none.
    """

    def __init__(self, client: Client, namespace: str, fence: Fence, owner: str = "") -> None:
        self._client = client
        self._fence = fence
        self._owner = owner
        # Its own ones, because the others are used in another thread.
        self._maps = Maps(client, namespace, fence)
        self._kept: Memory | None = None

    def begin(self) -> tuple[Memory, Owner | None]:
        """What is remembered, and who owns the filters, for a leader that begins.

        Raises:
            StateError: the API server does not say.
        """
        self._maps.forget()
        owner = self._fetch_owner()
        present = self._maps.read(MAP)
        text = ((present or {}).get("data") or {}).get(DATA)
        memory = unpacked(text) if text else Memory()
        uid = owner.uid if owner is not None else ""
        self._kept = memory = memory if memory.owner == uid else Memory(uid)
        return memory, owner

    def remember(self, memory: Memory) -> None:
        """Keep what is to be remembered, if it has changed.

        Raises:
            NotLeadingError: this process leads no longer.
            StateError: it cannot be written.
        """
        if memory != self._kept:
            self._maps.write(MAP, "", "", data={DATA: packed(memory)})
            self._kept = memory

    def there(self, keys: Iterable[Key]) -> dict[Key, Mapping[str, Any]]:
        """Those of some filters that are there at this moment.

        Raises:
            KubeError: the API server does not say.
        """
        found: dict[Key, Mapping[str, Any]] = {}
        for namespace, name in keys:
            try:
                found[namespace, name] = self._client.get(ENVOY_FILTERS, namespace, name)
            except Missing:
                continue
        return found

    def apply(self, key: Key, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Apply one filter; as it then is.

        Raises:
            NotLeadingError: this process leads no longer.
            KubeError: the API server did not take it.
        """
        self._fence.check()
        # By force: who edited one by hand owns fields of it, and it is ours as a whole.
        return self._client.apply(ENVOY_FILTERS, key[0], key[1], dict(body), manager=MANAGER, force=True)

    def delete(self, filters: Sequence[tuple[Key, str]]) -> int:
        """Delete filters, each if it is still the same one; how many were.

        Raises:
            NotLeadingError: this process leads no longer.
            KubeError: the API server did not take it.
        """
        deleted = 0
        for (namespace, name), uid in filters:
            self._fence.check()
            try:
                self._client.delete(ENVOY_FILTERS, namespace, name, uid=uid or None)
                deleted += 1
            except (Missing, Stale):
                continue
        return deleted

    def _fetch_owner(self) -> Owner | None:
        if not self._owner:
            return None
        try:
            found = self._client.get(CLUSTER_ROLES, None, self._owner)
        except Missing:
            raise StateError(f"there is no ClusterRole {self._owner}, which is to own the EnvoyFilters") from None
        except KubeError as error:
            raise StateError(in_words(error)) from error
        return Owner(self._owner, str(found["metadata"]["uid"]))
