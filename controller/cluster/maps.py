"""ConfigMaps of the controller's own namespace: read by name, replaced as a whole, never over somebody else's write.

One write is one PUT with the resourceVersion that was seen last, so no read comes before it. A leader that finds that a
newer one has written stops leading.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import AlreadyExists, KubeError, Missing, Stale
from abmesh.kube.resources import CONFIG_MAPS
from controller.cluster.lease import Fence
from controller.cluster.names import EPOCH, EXPERIMENT, LABELS, UID
from controller.cluster.objects import in_words

MOST_BYTES: Final = 1_000_000
"""In one ConfigMap; the API server takes 1,048,576."""

_ATTEMPTS: Final = 3


class Maps:
    """The ConfigMaps of one namespace.

    Args:
        client: to the API server.
        namespace: the controller's own.
        fence: this process's right to write.
    """

    def __init__(self, client: Client, namespace: str, fence: Fence) -> None:
        self._client = client
        self._namespace = namespace
        self._fence = fence
        self._known: dict[str, dict[str, Any] | None] = {}

    def forget(self) -> None:
        """Trust nothing that was read before: another leader may have written since."""
        self._known.clear()

    def read(self, name: str) -> dict[str, Any] | None:
        """A ConfigMap; None if there is none. Asked of the API server once, then it is ours.

        Raises:
            StateError: the API server does not say.
        """
        if name not in self._known:
            self._known[name] = self._fetch(name)
        return self._known[name]

    def write(
        self,
        name: str,
        experiment: str,
        uid: str,
        *,
        data: Mapping[str, str] | None = None,
        binary: Mapping[str, bytes] | None = None,
    ) -> None:
        """Replace a ConfigMap, or make it.

        Args:
            name: of the ConfigMap.
            experiment: of which it is; empty for none.
            uid: of that Experiment.
            data: what is text.
            binary: what is not.

        Raises:
            NotLeadingError: this process leads no longer.
            StateError: it cannot be written.
        """
        stamp = self._fence.stamp
        for _ in range(_ATTEMPTS):
            present = self.read(name)
            annotations = {EPOCH: str(stamp["epoch"])}
            if experiment:
                annotations |= {EXPERIMENT: experiment, UID: uid}
            metadata: dict[str, Any] = {
                "name": name,
                "namespace": self._namespace,
                "labels": dict(LABELS),
                "annotations": annotations,
            }
            body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            if data:
                body["data"] = dict(data)
            if binary:
                body["binaryData"] = {key: base64.b64encode(value).decode() for key, value in binary.items()}
            try:
                if present is None:
                    self._known[name] = self._client.create(CONFIG_MAPS, self._namespace, body)
                else:
                    metadata["resourceVersion"] = present["metadata"]["resourceVersion"]
                    self._known[name] = self._client.replace(CONFIG_MAPS, self._namespace, name, body)
            except (Stale, AlreadyExists, Missing):
                self._known.pop(name, None)
                self._refuse_newer(self.read(name), stamp["epoch"])
            except KubeError as error:
                self._known.pop(name, None)  # it may have been written nevertheless
                raise StateError(in_words(error)) from error
            else:
                return
        raise StateError(f"ConfigMap {self._namespace}/{name} was changed by others again and again; trying later")

    def delete(self, name: str) -> None:
        """Delete a ConfigMap; nothing if there is none.

        Raises:
            StateError: it cannot be deleted.
        """
        self._fence.check()
        self._known.pop(name, None)
        try:
            self._client.delete(CONFIG_MAPS, self._namespace, name)
        except Missing:
            pass
        except KubeError as error:
            raise StateError(in_words(error)) from error

    def _fetch(self, name: str) -> dict[str, Any] | None:
        try:
            return self._client.get(CONFIG_MAPS, self._namespace, name)
        except Missing:
            return None
        except KubeError as error:
            raise StateError(in_words(error)) from error

    def _refuse_newer(self, present: Mapping[str, Any] | None, epoch: int) -> None:
        if present is None:
            return
        theirs = annotation(present, EPOCH)
        if theirs.isdecimal() and int(theirs) > epoch:
            self._fence.lost(f"a newer leader, of epoch {theirs}, has written")
            self._fence.check()


def annotation(thing: Mapping[str, Any], name: str) -> str:
    """An annotation of an object; empty if it has none."""
    found = (thing["metadata"].get("annotations") or {}).get(name, "")
    return str(found)


def binary_of(thing: Mapping[str, Any], key: str) -> bytes:
    """What a ConfigMap holds under a key of ``binaryData``; empty if nothing, or nothing that makes sense."""
    try:
        return base64.b64decode((thing.get("binaryData") or {}).get(key, ""), validate=True)
    except (TypeError, ValueError):
        return b""


def packed(content: bytes) -> bytes:
    """Content in as few bytes as is cheap."""
    return zlib.compress(content, 6)


def unpacked(content: bytes) -> bytes:
    """The reverse of :func:`packed`; empty if it is damaged."""
    try:
        return zlib.decompress(content)
    except zlib.error:
        return b""
