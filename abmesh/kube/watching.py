"""Follows all objects of a kind, whatever happens to the API server.

The server and the controller iterate over :func:`follow`. It lists, watches from there in pieces of 20 seconds, and
starts again where it was. Whatever goes wrong, the last good set stays, and its trouble is told beside it:

- No answer, 401, 403, 404, 429, 5xx: ask again after 0.1 s, doubling to 2 s, with the credentials as they are then.
- A frozen API server, or packets that vanish: a piece ends after 25 seconds at the latest.
- 410, or an ERROR event: list again.
- The kind itself is deleted, and with it every object, one by one: see :meth:`_Following._without_lost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import aiohttp

from abmesh.kube.connection import Connection
from abmesh.kube.errors import Attempt, Forbidden, Gone, KubeError, Missing, from_status
from abmesh.kube.resources import Resource
from abmesh.kube.session import Session

Key = tuple[str, str]
"""Namespace and name of an object."""

Objects = Mapping[Key, dict[str, Any]]

_PIECE_SECONDS: Final = 20
_LATE_SECONDS: Final = 5
"""How much later than asked the API server may end a piece; then it is frozen, or the network is."""

_SHORTEST_PIECE: Final = 1.0
"""A piece that ends sooner, such as behind a proxy that cuts it off, is followed by a pause."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_PAGE: Final = 100
"""Objects in one answer. Parsing stops the process's requests: 100 Experiments of 6 KB take some 5 ms."""

_SETTLE_SECONDS: Final = 0.2
"""From a deletion to the question what is there: the API server needs a moment to say that a kind is being deleted."""

_GONE_SECONDS: Final = 3.0
"""How long a small kind needs to be deleted, where the API server may not be asked whether it is."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind.

    Attributes:
        items: by namespace and name, each as the API server writes it.
        at: the resourceVersion of the newest change in it; empty before the first list.
        trouble: why it may be out of date, as a sentence without a full stop; empty while it is followed.
    """

    items: Objects
    at: str
    trouble: str = ""


async def follow(
    connection: Connection, resource: Resource, namespace: str | None = None, *, labels: str = ""
) -> AsyncGenerator[Listing]:
    """All objects of a kind now, and again after every change of them or of the trouble; never ends.

    Who takes long with one set gets the newest one next, not each one in between.

    Args:
        connection: the way to the API server.
        resource: the kind.
        namespace: None for all namespaces.
        labels: a label selector; empty for all objects.
    """
    following = _Following(connection, resource, namespace, labels)
    task = asyncio.create_task(following.run())
    try:
        while True:
            news = asyncio.create_task(following.changed.wait())
            try:
                await asyncio.wait({task, news}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            if task.done():  # only a bug ends it
                task.result()
            following.changed.clear()
            yield Listing(MappingProxyType(dict(following.known)), following.at, following.trouble)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass(slots=True)
class _Following:
    """What is known of a kind's objects, and the loop that keeps it up to date.

    Attributes:
        known: the objects.
        at: the resourceVersion of the newest change in them.
        trouble: see :class:`Listing`.
        changed: set when one of these changes.
        must_list: whether a watch from ``at`` would miss something.
        is_watching: whether the API server has agreed to the watch that runs, or broke, last.
        pause: seconds until the next attempt.
    """

    connection: Connection
    resource: Resource
    namespace: str | None
    labels: str
    known: dict[Key, dict[str, Any]] = field(default_factory=dict)
    at: str = ""
    trouble: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    must_list: bool = True
    is_watching: bool = False
    pause: float = _FIRST_PAUSE

    async def run(self) -> None:
        """Keep up to date until cancelled."""
        async with Session(self.connection) as session:
            while True:
                try:
                    await self._follow(session)
                except (TimeoutError, aiohttp.ClientError, OSError) as error:
                    # A watch that breaks is usual, when an API server restarts or something on the way does; it is
                    # trouble if it cannot be begun again.
                    if not self.is_watching or isinstance(error, TimeoutError):
                        place = f"{self.resource.full_name}: {self.connection.server}"
                        self._tell(f"cannot follow {place}: {_cause(error)}")
                except (KeyError, TypeError, AttributeError):
                    self._tell(f"cannot follow {self.resource.full_name}: {self.connection.server} is no API server")
                except KubeError as error:
                    self._tell(str(error))
                    # Another kind of the same name, or a place that the API server has forgotten.
                    self.must_list |= isinstance(error, Missing | Gone)
                # Not all at once: an API server that comes back is asked by every process of ours.
                await asyncio.sleep(self.pause * random.uniform(0.5, 1.0))
                self.pause = min(2 * self.pause, _LONGEST_PAUSE)

    async def _follow(self, session: Session) -> None:
        """List if needed, and watch until something is wrong, or a piece ends too soon."""
        loop = asyncio.get_running_loop()
        while True:
            self.is_watching = False
            if self.must_list:
                await self._list(session)
            begun = loop.time()
            try:
                await self._watch(session)
            except Gone:
                self.must_list = True
            finally:
                lasted = loop.time() - begun >= _SHORTEST_PIECE
                if lasted:
                    self.pause = _FIRST_PAUSE
            if not lasted and not self.must_list:
                return

    async def _list(self, session: Session) -> None:
        found, version = await self._listed(session)
        if self.resource.is_custom and self.known.keys() - found.keys():
            found, version = await self._without_lost(session, found, version)
        changed = found != self.known or not self.at
        self.known, self.at, self.must_list = found, version, False
        self._well(changed=changed)

    async def _without_lost(
        self, session: Session, found: dict[Key, dict[str, Any]], version: str
    ) -> tuple[dict[Key, dict[str, Any]], str]:
        """A list that lacks objects which were there, once it is certain that they were deleted as such.

        When a kind is deleted, its objects go first, and lists succeed meanwhile, with fewer objects each. Taking them
        for what people want would end every experiment at once. While a kind is being deleted, the API server does
        not offer to create its objects.

        Raises:
            Missing: the kind is being deleted.
        """
        path = f"/apis/{self.resource.group}/{self.resource.version}"
        try:
            offered = await session.get(path, {}, Attempt("get", path))
        except Forbidden:
            await asyncio.sleep(_GONE_SECONDS)
            return await self._listed(session)
        verbs = next((each["verbs"] for each in offered["resources"] if each["name"] == self.resource.plural), ())
        if "create" not in verbs:
            message = (
                f"the kind {self.resource.full_name} is being deleted in this cluster, and all its objects with it"
            )
            raise Missing(message, status=404, reason="Terminating")
        return found, version

    async def _listed(self, session: Session) -> tuple[dict[Key, dict[str, Any]], str]:
        """The objects, and the resourceVersion of the list."""
        found: dict[Key, dict[str, Any]] = {}
        query, path = {"limit": str(_PAGE)}, self.resource.path(self.namespace)
        while True:
            page = await session.get(path, {**query, **self._selector}, self._attempt("list"))
            for item in page.get("items") or ():
                found[_key(item)] = {"apiVersion": self.resource.api_version, "kind": self.resource.kind, **item}
            more = page["metadata"].get("continue")
            if not more:
                return found, str(page["metadata"]["resourceVersion"])
            query["continue"] = more

    async def _watch(self, session: Session) -> None:
        """Apply events until a piece ends, or a list is needed.

        Raises:
            KubeError: the API server refuses, or reports an error.
            aiohttp.ClientError, TimeoutError, OSError: the connection broke.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_PIECE_SECONDS),
            "resourceVersion": self.at,
            **self._selector,
        }
        attempt = self._attempt("watch")
        path = self.resource.path(self.namespace)
        async with session.events(path, query, attempt, total=_PIECE_SECONDS + _LATE_SECONDS) as events:
            self.is_watching = True
            self._well(changed=False)
            async for event in events:
                kind, item = event.get("type"), event.get("object", {})
                if kind == "ERROR":
                    self.must_list = True
                    raise from_status(attempt, item)
                self.pause = _FIRST_PAUSE
                if kind == "DELETED" and self.resource.is_custom:
                    self.must_list = True
                    break
                self._apply(str(kind), item)
        if self.must_list:
            await asyncio.sleep(_SETTLE_SECONDS)

    def _apply(self, kind: str, item: dict[str, Any]) -> None:
        self.at = item["metadata"]["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            self.known[_key(item)] = item
        elif kind == "DELETED":
            self.known.pop(_key(item), None)
        else:  # a bookmark moves the place only
            return
        self.changed.set()

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self.changed.set()

    def _well(self, *, changed: bool) -> None:
        if self.trouble or changed:
            self.trouble = ""
            self.changed.set()

    @property
    def _selector(self) -> dict[str, str]:
        return {"labelSelector": self.labels} if self.labels else {}

    def _attempt(self, verb: str) -> Attempt:
        return Attempt(verb, self.resource.full_name, self.namespace or "")


def _key(item: Mapping[str, Any]) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _cause(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return " ".join(str(error).split())[:500] or type(error).__name__
