"""The Experiments of a cluster as a server follows them.

:mod:`ext_proc.sources` makes a :class:`KubeStore` where a server of a file has a
:class:`~abmesh.experiment.store.FileStore`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final

from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.secrets import held, read_all
from abmesh.experiment.source import State, Trouble
from abmesh.experiment.store import Snapshot
from abmesh.kube.accepted import Served, judge
from abmesh.kube.connection import Connection
from abmesh.kube.generation import generation_of
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.salts import checked_digest
from abmesh.kube.watching import Listing, follow

_SECRETS_SECONDS: Final = 2.0
"""How often to look at mounted secrets, which change without an event."""


class KubeStore:
    """The Experiments of one namespace, or of all.

    Args:
        connection: the way to the API server.
        namespace: None for all namespaces.
        event_origins: web origins whose pages may send events from another site; a file's ``event_origins``.
    """

    def __init__(
        self, connection: Connection, namespace: str | None = None, event_origins: tuple[str, ...] = ()
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._event_origins = event_origins

    async def watch(self) -> AsyncIterator[State]:
        """What is in force now, and again after every change; trouble with the API server whenever it changes.

        Each object stands alone: one that is refused is named in the snapshot, and what was last accepted of it stays
        in force. Before the first list there is only trouble, if there is any.
        """
        served, trouble = Served(), ""
        last: tuple[object, ...] | None = None
        async for listing, is_news in _or_again(follow(self._connection, EXPERIMENTS, self._namespace)):
            if listing.trouble != trouble:
                trouble = listing.trouble
                yield Trouble(trouble)
            if not listing.at or not (is_news or served.has_secrets):
                continue
            # Reading an object takes a millisecond: too long for the loop that serves requests.
            served = await asyncio.to_thread(judge, listing.items, served, _complete)
            snapshot = self._snapshot(served)
            content = (snapshot.generation, snapshot.refused, held(snapshot.document))
            if content != last:
                last = content
                yield snapshot

    def _snapshot(self, served: Served) -> Snapshot:
        # Not validated again: the rules between experiments are for one author's file, and each object is valid alone.
        document = Document.model_construct(
            version=1, event_origins=self._event_origins, experiments=served.experiments
        )
        digests = served.digests
        return Snapshot(document, "", generation_of(digests), refused=served.refused, digests=digests)


def _complete(experiment: Experiment, item: Mapping[str, Any]) -> Experiment:
    """The experiment with the secrets that it names.

    Raises:
        SecretError: one of them cannot be read, is too weak, or is a salt that would move every user.
    """
    found: Experiment = read_all(Document.model_construct(version=1, experiments=(experiment,))).experiments[0]
    checked_digest(found, item.get("status") or {})
    return found


async def _or_again(listings: AsyncGenerator[Listing]) -> AsyncIterator[tuple[Listing, bool]]:
    """The listings, and the last one again after two seconds without another; with each, whether it is new."""
    last: Listing | None = None
    news = asyncio.ensure_future(anext(listings))
    try:
        while True:
            await asyncio.wait({news}, timeout=_SECRETS_SECONDS)
            if news.done():
                last = news.result()
                news = asyncio.ensure_future(anext(listings))
                yield last, True
            elif last is not None:
                yield last, False
    finally:
        news.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
            await news
        await listings.aclose()
