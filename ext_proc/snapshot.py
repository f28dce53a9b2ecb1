"""Keeps the service on the newest valid document.

:mod:`ext_proc.serving` runs one :class:`Follower` per process. A document is compiled in a thread while requests are
still answered, and takes effect by replacing one reference. A refused edit changes only the metrics and the log; the
last good document stays in force.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from abmesh.experiment.secrets import held
from abmesh.experiment.source import State, Trouble
from abmesh.experiment.store import Rejected, Snapshot, format_generation
from abmesh.text import one_line
from ext_proc.service import Service, compile_rules

log = logging.getLogger("ext_proc")

Watch = Callable[[], AsyncIterator[State]]
"""Starts to watch a source: yields its current state at once, then every change."""

_RETRY_SECONDS = 1.0
_CHANGED_SALT = "every user of this experiment is assigned anew"
_CHANGED_KEY = "cookies of a key that is no longer listed are refused, and their holders get a new identity"


class Follower:
    """Follows a store while :meth:`run` runs.

    Attributes:
        seen: set once the first state, valid or not, has been handled.
    """

    def __init__(
        self,
        watch: Watch,
        service: Service,
        on_valid: Callable[[], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Put what ``watch`` yields into force in ``service``.

        Args:
            watch: starts to watch the store.
            service: the service to keep up to date.
            on_valid: called once, when the first valid document has taken effect.
            now: seconds since the epoch.
        """
        self._watch = watch
        self._service = service
        self._on_valid = on_valid
        self._now = now
        self._config = service.counts.config
        self._secrets: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self.seen = asyncio.Event()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            try:
                async for state in self._watch():
                    await self._apply(state)
                    self.seen.set()
            except Exception as error:  # noqa: BLE001  serving goes on with the last good document
                self._service.counts.error("watch")
                self._config.error = f"{type(error).__name__}: {one_line(error)}"
                log.error("cannot watch the document, trying again: %s", self._config.error)  # noqa: TRY400  one line
                self.seen.set()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _apply(self, state: State) -> None:
        if isinstance(state, Rejected):
            self._refuse(state)
        elif isinstance(state, Trouble):
            self._tell(state)
        else:
            await self._accept(state)

    def _tell(self, trouble: Trouble) -> None:
        self._config.trouble = one_line(trouble.message)
        if not trouble.message:
            log.info("changes are followed again")
            return
        self._service.counts.error("watch")
        if self._config.generation is None:
            stays = "no experiments yet, so requests pass untouched and health is NOT_SERVING"
        else:
            stays = f"generation {format_generation(self._config.generation)} stays in force"
        log.warning("changes cannot be followed, %s: %s", stays, self._config.trouble)

    def _refuse(self, refused: Rejected) -> None:
        config = self._config
        config.rejected += 1
        config.error = one_line(refused.error)
        if config.generation is None:
            stays = "no valid document yet, so requests pass untouched and health is NOT_SERVING"
        else:
            stays = f"generation {format_generation(config.generation)} stays in force"
        log.error("document refused, %s: %s", stays, config.error)

    async def _accept(self, snapshot: Snapshot) -> None:
        config = self._config
        was_refused, config.error = bool(config.error), ""
        self._judge_each(snapshot)
        secrets = held(snapshot.document)
        changed = [what for what, secret in secrets.items() if self._secrets.get(what, secret) != secret]
        if config.generation == snapshot.generation and not changed:
            if was_refused and not config.error:
                log.info("document is valid again: generation %s", format_generation(snapshot.generation))
            return
        rules = await asyncio.to_thread(compile_rules, snapshot.document, self._service.rules)
        first = self._service.rules is None
        self._service.rules, self._secrets = rules, secrets
        config.generation, config.loaded_at = snapshot.generation, self._now()
        config.digests = dict(snapshot.digests)
        count = len(snapshot.document.experiments)
        log.info(
            "document in force: generation %s, %d experiment%s",
            format_generation(snapshot.generation),
            count,
            "" if count == 1 else "s",
        )
        for what in changed:
            log.warning("secret changed: %s: %s", what, _CHANGED_SALT if ": secret_salt: " in what else _CHANGED_KEY)
        if first:
            await self._on_valid()

    def _judge_each(self, snapshot: Snapshot) -> None:
        """Count and tell the experiments that are refused alone."""
        kept = {experiment.name for experiment in snapshot.document.experiments}
        for name, why in snapshot.refused.items():
            if self._refused.get(name) == why:
                continue
            self._config.rejected += 1
            stays = "what was accepted of it stays in force" if name in kept else "its traffic passes untouched"
            log.error("experiment %s refused, %s: %s", name, stays, why)
        for name in self._refused.keys() - snapshot.refused.keys():
            log.info("experiment %s is no longer refused", name)
        self._refused = dict(snapshot.refused)
        self._config.error = "; ".join(snapshot.refused.values())
