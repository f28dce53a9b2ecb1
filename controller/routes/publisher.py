"""Keeps an Envoy's routes file up to date with the newest valid document, independently of the controller's loop.

The loop ticks every few seconds, and only if it leads. The publisher watches the document itself, so an edit reaches
Envoy as fast as it reaches the server, even when ticks fail. Failures here do not reach the loop: they are logged,
counted and retried.

Run by :mod:`controller.wiring` and by ``abmesh routes --follow``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.secrets import held
from abmesh.experiment.store import Rejected, Snapshot, format_generation
from abmesh.text import one_line

log = logging.getLogger("abmesh.routes")

RETRY_SECONDS: Final = 1.0
"""Pause after a failure."""

WATCH_SECONDS: Final = 0.05
"""How often the document is checked for changes, so that weights reach Envoy as fast as they reach the server."""

CHECK_SECONDS: Final = 5.0
"""How often the file is checked for changes made by somebody else."""


class RoutesFile(Protocol):
    """The file that is kept up to date; implemented by :class:`controller.routes.envoy_file.EnvoyRoutes`."""

    def publish(self, snapshot: Snapshot) -> tuple[bool, object]:
        """Write a document's routes unless the file already has them.

        Returns:
            Whether it wrote the file, and the file's signature.
        """

    def signature(self) -> object:
        """A value that changes when anybody changes the file."""


@dataclass
class RoutesStatus:
    """The state of the routes file, for health and metrics.

    Attributes:
        generation: of the document whose routes the file holds; None before the first write.
        writes: how often the file was written.
        failures: how often writing the file or watching the document failed.
        watch_error: why the document cannot be watched; empty if it can.
        write_error: why the file does not hold the newest document's routes; empty if it does.
        behind: Envoys that still do not serve the file's routes after the settle time, with the version that they
            serve; maintained by :mod:`controller.routes.watcher`.
    """

    generation: int | None = None
    writes: int = 0
    failures: int = 0
    watch_error: str = ""
    write_error: str = ""
    behind: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """Why the file is, or may be, behind the newest valid document; empty if it is up to date."""
        return self.write_error or self.watch_error


class Publisher:
    """Publishes a document's routes for as long as :meth:`run` runs.

    Args:
        watch: watches the document: yields it at once and whenever it changes.
        file: the routes file.
        retry_seconds: pause after a failure.
        check_seconds: how often to check that nobody else changed the file.

    Attributes:
        status: the state of the file.
    """

    def __init__(
        self,
        watch: Callable[[], AsyncIterator[Snapshot | Rejected]],
        file: RoutesFile,
        *,
        retry_seconds: float = RETRY_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._watch = watch
        self._file = file
        self._retry_seconds = retry_seconds
        self._check_seconds = check_seconds
        self._wanted: Snapshot | None = None
        self._changed = asyncio.Event()
        self._written: object = None
        self._secrets: dict[str, str] = {}
        self.status = RoutesStatus()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_document())
            tasks.create_task(self._keep_file())

    async def _follow_document(self) -> None:
        while True:
            try:
                async for found in self._watch():
                    self.status.watch_error = ""
                    if isinstance(found, Snapshot):
                        self._wanted = found
                        self._changed.set()
                    else:
                        log.error("the document was refused, so the old routes stay: %s", one_line(found.error))
            except Exception as error:  # noqa: BLE001  the old routes stay in force until watching works again
                self.status.watch_error = self._failed(error, self.status.watch_error)
            await asyncio.sleep(self._retry_seconds)

    async def _keep_file(self) -> None:
        while True:
            pause = self._retry_seconds if self.status.write_error else self._check_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                continue
            if self._is_due(wanted):
                await self._publish(wanted)
            else:
                self.status.write_error = ""  # the document went back to what the file holds

    def _is_due(self, wanted: Snapshot) -> bool:
        if wanted.generation != self.status.generation or held(wanted.document) != self._secrets:
            return True
        return self._file.signature() != self._written

    async def _publish(self, wanted: Snapshot) -> None:
        try:
            # In a thread, because rendering hundreds of routes takes a while, and the event loop must go on.
            written, self._written = await asyncio.to_thread(self._file.publish, wanted)
        except Exception as error:  # noqa: BLE001  a bug must not end the watch: the next document may render
            self.status.write_error = self._failed(error, self.status.write_error)
            return
        self.status.generation, self.status.write_error = wanted.generation, ""
        self._secrets = held(wanted.document)
        if written:
            self.status.writes += 1
            log.info("published the routes of generation %s", format_generation(wanted.generation))

    def _failed(self, error: Exception, before: str) -> str:
        reason = one_line(error) if isinstance(error, AbmeshError) else f"{type(error).__name__}: {one_line(error)}"
        self.status.failures += 1
        if reason != before:
            log.error("cannot bring the routes file up to date, retrying: %s", reason)
        return reason
