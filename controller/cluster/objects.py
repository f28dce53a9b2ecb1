"""All Experiments as they are now: what the watch says, and what this process has written or read since.

The watch runs on the event loop, ticks in a thread. An object that was written or read here counts until the watch is
past its resourceVersion, so that nobody decides on a status from before their own write. That one is gone, only the
watch says: while the kind itself is being deleted, every read says so, and the watch knows better.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from abmesh.experiment.errors import StoreError
from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Missing
from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.names import full_name, split

Thing = Mapping[str, Any]


class Listing(Protocol):
    """All Experiments at one moment, as :class:`abmesh.kube.watching.Listing` has them."""

    @property
    def items(self) -> Mapping[tuple[str, str], dict[str, Any]]:
        """By namespace and name."""

    @property
    def trouble(self) -> str:
        """Why they may be out of date; empty if they are not."""


class Experiments:
    """The Experiments of a cluster.

    Args:
        client: for reads that must be of this moment.
        on_change: called whenever a spec, an annotation or the set of Experiments changes; from the event loop.
        namespace: whose Experiments they are; None for all.

    Attributes:
        trouble: why the watch does not get on; empty if it does.
    """

    def __init__(
        self, client: Client, on_change: Callable[[], None] = lambda: None, namespace: str | None = None
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._on_change = on_change
        self._lock = threading.Lock()
        self._watched: dict[str, Thing] = {}
        self._own: dict[str, Thing] = {}
        self._ready = False
        self.trouble = "the Experiments have not been listed yet"

    async def follow(self, listings: AsyncIterator[Listing]) -> None:
        """Take in what a watch says, until it ends."""
        async for listing in listings:
            if self.take(listing):
                self._on_change()

    def take(self, listing: Listing) -> bool:
        """Take in what a watch says; whether anything changed that needs attention before the next tick."""
        found: dict[str, Thing] = {f"{space}/{name}": thing for (space, name), thing in listing.items.items()}
        with self._lock:
            before, self._watched = self._watched, found
            self.trouble = listing.trouble
            if not listing.trouble:
                self._ready = True
            for name, own in list(self._own.items()):
                watched = found.get(name)
                if watched is None or _version(own) <= _version(watched):
                    # One that is gone from the list was deleted after it was written: lists are applied whole.
                    if watched is None and name not in before:
                        continue  # created so lately that the watch does not know it yet
                    del self._own[name]
        return any(_attention(found.get(name)) != _attention(before.get(name)) for name in found.keys() | before.keys())

    def all(self) -> dict[str, Thing]:
        """Every Experiment, by ``NAMESPACE/NAME``, in order of their creation.

        Raises:
            StoreError: they were never listed.
        """
        with self._lock:
            if not self._ready:
                raise StoreError(f"the Experiments are not known: {self.trouble}")
            found = {**self._watched, **self._own}
        return dict(sorted(found.items(), key=lambda item: (item[1]["metadata"].get("creationTimestamp", ""), item[0])))

    def fetch(self, name: str) -> Thing | None:
        """An Experiment as it is at this moment; None if there is none, of which the watch says whether it was deleted.

        Raises:
            KubeError: the API server does not say.
        """
        namespace, bare = split(name)
        try:
            found = self._client.get(EXPERIMENTS, namespace, bare)
        except Missing:
            return None
        self.note(found)
        return found

    def note(self, thing: Thing) -> None:
        """Take in an object that this process has read or written."""
        name = full_name(thing)
        with self._lock:
            known = self._own.get(name)
            if known is None or _version(known) <= _version(thing):
                self._own[name] = thing

    def list_now(self) -> None:
        """Take in a list of this moment, for a leader that begins.

        Raises:
            KubeError: the API server does not answer.
        """
        listed = self._client.list(EXPERIMENTS, self._namespace)
        for thing in listed.items:
            self.note(thing)
        with self._lock:
            self._ready = True

    def known(self, name: str) -> Thing | None:
        """An Experiment as far as it is known here; None if it is not."""
        try:
            return self.all().get(name)
        except StoreError:
            return None


def patch_status(
    client: Client, thing: Thing, patch: Mapping[str, Any], *, leader: Mapping[str, Any]
) -> dict[str, Any]:
    """Patch a status, if the object is still the one that was looked at and no newer leader has taken over.

    Args:
        client: to the API server.
        thing: the object as it was looked at.
        patch: the changes of its status.
        leader: who writes: epoch and identity.

    Raises:
        Stale: the object has changed.
        KubeError: see :mod:`abmesh.kube.errors`.
    """
    namespace, name = split(full_name(thing))
    body = {
        "metadata": {"resourceVersion": thing["metadata"]["resourceVersion"], "uid": thing["metadata"]["uid"]},
        "status": {**patch, "leader": dict(leader)},
    }
    return client.merge_patch(EXPERIMENTS, namespace, name, body, subresource="status")


def in_words(error: KubeError) -> str:
    """An error of the API server, for people who read it as the reason why nothing moves."""
    return f"the API server: {error}"


def _version(thing: Thing) -> int:
    """Versions of one kind of objects are numbers that grow (Kubernetes 1.35 promises it)."""
    found = str(thing["metadata"].get("resourceVersion", "0"))
    return int(found) if found.isdecimal() else 0


def _attention(thing: Thing | None) -> object:
    if thing is None:
        return None
    metadata = thing["metadata"]
    return metadata.get("uid"), metadata.get("generation"), metadata.get("annotations")
