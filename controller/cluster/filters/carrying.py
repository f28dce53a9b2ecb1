"""Carries out plans: writes filters in order, watches what proxies say, and takes back what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from abmesh.experiment.errors import StateError
from abmesh.kube.errors import KubeError
from controller.cluster.filters.memory import Fate, Key, Memory
from controller.cluster.filters.plan import Owner, Plan
from controller.cluster.filters.probation import Probation, TakeBack
from controller.cluster.filters.writing import Writer
from controller.routes.filters_status import FiltersStatus

log = logging.getLogger("abmesh.filters")


class Counter(Protocol):
    """What istiod says of rejects; see :class:`controller.cluster.filters.rejects.Rejects`."""

    async def count(self) -> float | None:
        """How often proxies have refused anything; None if it cannot be read."""

    async def words(self) -> str:
        """What they said; empty if it cannot be read."""

    async def version(self) -> str:
        """Istio's version; empty if it cannot be read."""


class Carrier:
    """Carries out plans; what blocks runs in a thread.

    Args:
        writer: writes filters.
        rejects: what istiod says.
        monotonic: a clock, in seconds.

    Attributes:
        memory: what is remembered of filters.
        status: for health and metrics.
        probation: the filters that are watched.
        gone: uids of filters that were deleted here, which a watch may still show for a moment.
    """

    def __init__(self, writer: Writer, rejects: Counter, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._rejects = rejects
        self._monotonic = monotonic
        self.memory = Memory()
        self.status = FiltersStatus()
        self.probation = Probation()
        self.gone: set[str] = set()
        self._uids: dict[Key, str] = {}

    async def begin(self) -> Owner | None:
        """Begin to lead; who owns the filters.

        Raises:
            StateError: the API server does not say what is remembered, or who.
        """
        self.memory, owner = await asyncio.to_thread(self._writer.begin)
        self.probation.clear()
        return owner

    async def carry_out(self, made: Plan) -> dict[Key, str]:
        """Write what is to be written; why filters were not taken.

        Raises:
            NotLeadingError: this process leads no longer.
            AbmeshError: what is to be remembered cannot be.
        """
        todo = [write for write in made.apply if self.probation.may_write(write.key)]
        alone = [write for write in todo if write.key in self.probation.suspects]
        todo = [write for write in todo if write not in alone] or alone[:1]
        await asyncio.to_thread(self._remember, made.memory)
        if made.prune:
            self.gone |= {uid for _, uid in made.prune}
            count = await asyncio.to_thread(self._writer.delete, made.prune)
            self.status.writes["prune"] += count
            log.info("deleted %s", ", ".join("/".join(key) for key, _ in made.prune))
        if not todo:
            return {}
        self.probation.begin(await self._rejects.count())
        failures: dict[Key, str] = {}
        broken: set[object] = set()
        for write in todo:
            if write.item.scope in broken:
                failures[write.key] = "another EnvoyFilter for the same proxies was not taken"
                continue
            try:
                await self._apply(write.key, write.body)
            except KubeError as error:
                failures[write.key] = str(error)
                broken.add(write.item.scope)
                log.error("cannot apply the EnvoyFilter %s: %s", "/".join(write.key), error)  # noqa: TRY400
                continue
            if write.moves_weights:
                self.probation.moved(write)
            else:
                self.probation.wrote(write, self._monotonic())
            self.status.writes["apply"] += 1
            log.info("applied the EnvoyFilter %s for %s", "/".join(write.key), ", ".join(write.item.experiments))
        now = datetime.now(UTC)
        applied = {write.key: write.entry(Fate.APPLIED, now) for write in todo if write.key not in failures}
        await asyncio.to_thread(self._remember, self.memory.with_entries(applied))
        return failures

    async def look(self) -> bool:
        """See whether proxies refuse something, and take it back; whether that was so.

        Raises:
            AbmeshError: it cannot be taken back now.
        """
        count = await self._rejects.count()
        self.status.watched = count is not None
        found = self.probation.look(count, self._monotonic())
        if found is None:
            return False
        self.status.rejects += 1
        await self._take_back(found, await self._rejects.words())
        return True

    async def _take_back(self, found: TakeBack, words: str) -> None:
        write, now = found.write, datetime.now(UTC)
        why = words or "istiod's pilot_total_xds_rejects rose"
        entry = write.entry(Fate.REJECTED, now, why) if found.proved else None
        # First remembered: a filter of which nothing is remembered was not deleted by somebody else.
        with contextlib.suppress(StateError):
            await asyncio.to_thread(self._remember, self.memory.with_entries({write.key: entry}))
        if found.restore and write.before is not None:
            body = _applicable(write.before)
            await self._apply(write.key, body)
            self.probation.wrote(replace(write, body=body, before=None), self._monotonic(), restored=True)
        else:
            uid = self._uids.pop(write.key, "")
            self.gone.add(uid)
            await asyncio.to_thread(self._writer.delete, [(write.key, uid)])
        self.status.writes["take_back"] += 1
        log.error("took back the EnvoyFilter %s, because proxies refused something: %s", "/".join(write.key), why)

    async def _apply(self, key: Key, body: Mapping[str, Any]) -> None:
        found = await asyncio.to_thread(self._writer.apply, key, body)
        self._uids[key] = str(found["metadata"]["uid"])

    def _remember(self, memory: Memory) -> None:
        self._writer.remember(memory)
        self.memory = memory


def _applicable(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was there, as it can be applied again."""
    meta = found["metadata"]
    kept = {
        name: meta[name] for name in ("name", "namespace", "labels", "annotations", "ownerReferences") if name in meta
    }
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": kept, "spec": found["spec"]}
