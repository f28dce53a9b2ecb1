"""Keeps an Envoy's routes file on the newest valid document, beside the controller's loop and independent of it.

The loop ticks every few seconds, and leads or stands by; this follows the document itself, so that an edit by hand is
in force as fast as in the server, and goes on when ticks fail. Nothing that goes wrong here reaches the loop: it is
logged, counted, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.store import Rejected, Snapshot, format_generation

log = logging.getLogger("abmesh.routes")

RETRY_SECONDS: Final = 1.0
"""After a failure."""

WATCH_SECONDS: Final = 0.05
"""Time between two looks at the document: new weights are to reach Envoy as fast as they reach the server."""

CHECK_SECONDS: Final = 5.0
"""Time between two looks whether somebody else changed the file."""


class Target(Protocol):
    """Where routes go; see :class:`controller.routes.envoy_file.EnvoyRoutes`."""

    def publish(self, snapshot: Snapshot) -> tuple[bool, object]:
        """Put a document's routes in force; whether that was necessary, and the signature of what now is."""

    def signature(self) -> object:
        """What changes when anybody changes them."""


@dataclass
class Published:
    """How the file stands.

    Attributes:
        generation: of the document that the file holds the routes of; None before the first.
        writes: how often the file was written.
        failures: how often it could not be, or the document could not be watched.
        watch_error: why the document cannot be watched; empty if it can.
        write_error: why the newest document that was seen is not in the file; empty if it is.
        behind: Envoys that do not serve what the file holds although they have had the time for it, with the version
            that they serve; see :mod:`controller.routes.watcher`.
    """

    generation: int | None = None
    writes: int = 0
    failures: int = 0
    watch_error: str = ""
    write_error: str = ""
    behind: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """Why the file is, or may be, behind the newest valid document; empty if it is not."""
        return self.write_error or self.watch_error


class Publisher:
    """Follows a document for as long as :meth:`run` runs.

    Args:
        watch: starts to watch the document: yields it at once and whenever it changes.
        target: where its routes go.
        retry_seconds: pause after a failure.
        check_seconds: time between two looks whether the file is still as it was written.
    """

    def __init__(
        self,
        watch: Callable[[], AsyncIterator[Snapshot | Rejected]],
        target: Target,
        *,
        retry_seconds: float = RETRY_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._watch = watch
        self._target = target
        self._retry_seconds = retry_seconds
        self._check_seconds = check_seconds
        self._wanted: Snapshot | None = None
        self._changed = asyncio.Event()
        self._written: object = None
        self.state = Published()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep())

    async def _follow(self) -> None:
        while True:
            try:
                async for found in self._watch():
                    self.state.watch_error = ""
                    if isinstance(found, Snapshot):
                        self._wanted = found
                        self._changed.set()
                    else:
                        log.error("the document is refused; the routes stay as they are: %s", _one_line(found.error))
            except Exception as error:  # noqa: BLE001  whatever it is, the file stays as it is until it is over
                self.state.watch_error = self._failed(error, self.state.watch_error)
            await asyncio.sleep(self._retry_seconds)

    async def _keep(self) -> None:
        while True:
            pause = self._retry_seconds if self.state.write_error else self._check_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                continue
            if self._is_due(wanted):
                await self._publish(wanted)
            else:
                self.state.write_error = ""  # what could not be written is not wanted any more

    def _is_due(self, wanted: Snapshot) -> bool:
        return wanted.generation != self.state.generation or self._target.signature() != self._written

    async def _publish(self, wanted: Snapshot) -> None:
        try:
            # In a thread: hundreds of entries take a while, and the loop and its health endpoint must go on.
            written, self._written = await asyncio.to_thread(self._target.publish, wanted)
        except Exception as error:  # noqa: BLE001  a bug must not end the watch: the next document may be rendered again
            self.state.write_error = self._failed(error, self.state.write_error)
            return
        self.state.generation, self.state.write_error = wanted.generation, ""
        if written:
            self.state.writes += 1
            log.info("routes of generation %s are published", format_generation(wanted.generation))

    def _failed(self, error: Exception, before: str) -> str:
        reason = _one_line(error) if isinstance(error, AbmeshError) else f"{type(error).__name__}: {_one_line(error)}"
        self.state.failures += 1
        if reason != before:
            log.error("the routes are behind the document, trying again: %s", reason)
        return reason


def _one_line(error: Exception) -> str:
    return " | ".join(str(error).splitlines())
