"""Keeps the EnvoyFilters while this process leads: plans, writes, watches what proxies say, and takes back.

Runs on the event loop beside the ticks, which ask it only for what it found last; what blocks runs in a thread. While
this process stands by, it reads and writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.render import render as render_all
from abmesh.mesh.istio.resources import Resources
from abmesh.mesh.istio.wanted import Placed, Settings
from controller.cluster.conditions import Programming
from controller.cluster.documents import ClusterDocuments
from controller.cluster.filters import verdicts
from controller.cluster.filters.carried import Carried
from controller.cluster.filters.carrying import Carrier, Counter
from controller.cluster.filters.checking import Checks
from controller.cluster.filters.memory import Fate, Key
from controller.cluster.filters.plan import Owner, Plan, Situation, doubtful, plan
from controller.cluster.filters.pods import PodFleet
from controller.cluster.filters.reading import Read, View
from controller.cluster.filters.wishes import Wishes, Wishing, signature
from controller.cluster.filters.writing import Writer
from controller.cluster.lease import ClusterLease, NotLeadingError
from controller.cluster.objects import Experiments
from controller.rollout.serving import Served
from controller.routes.filters_status import FiltersStatus

log = logging.getLogger("abmesh.filters")

DEBOUNCE: Final = 0.1
"""Seconds between a change and the plan for it: what is applied at one time comes together."""

LOOK: Final = 0.25
"""Seconds between looks at the Experiments, and at the counter of rejects while filters are watched."""

RETRY: Final = 2.0
"""Seconds after which what failed is tried again."""

Render = Callable[[tuple[Placed, ...], Resources, Settings], Rendered]


@dataclass(frozen=True, slots=True)
class _Made:
    """What one plan was made from, and what came of it."""

    rendered: Rendered
    plan: Plan
    wishes: Wishes
    view: View
    everything: Rendered


class Keeper:
    """Keeps the filters.

    Args:
        lease: whether this process leads.
        experiments: as they are now.
        documents: which of them are accepted.
        reading: what is known of the cluster.
        writer: writes filters.
        rejects: what istiod says.
        settings: of the installation.
        fleet: is told which proxies there are.
        checks: what is asked before a write.
        manage: whether filters are written at all.
        listener_updates: whether filters that drain connections may be changed.
        on_change: called when something changed that people see; from the event loop.
        render: renders; another one in tests.
        monotonic: a clock, in seconds.

    Attributes:
        status: for health and metrics.
    """

    def __init__(
        self,
        lease: ClusterLease,
        experiments: Experiments,
        documents: ClusterDocuments,
        reading: Read,
        writer: Writer,
        rejects: Counter,
        settings: Settings,
        fleet: PodFleet,
        checks: Checks,
        *,
        manage: bool = True,
        listener_updates: bool = True,
        on_change: Callable[[], None] = lambda: None,
        render: Render = render_all,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._experiments = experiments
        self._documents = documents
        self._reading = reading
        self._writer = writer
        self._rejects = rejects
        self._settings = settings
        self._fleet = fleet
        self._checks = checks
        self._wishing = Wishing(manage=manage)
        self._listener_updates = listener_updates
        self._on_change = on_change
        self._render = render
        self._monotonic = monotonic
        self._carrier = Carrier(writer, rejects, monotonic)
        self._woken = asyncio.Event()
        self._epoch = 0
        self._owner: Owner | None = None
        self._versions: object = None
        self._view: View | None = None
        self._read = False
        self._again = 0.0
        self._said: Mapping[str, Programming] = {}
        self._carried = Carried()
        self.status = self._carrier.status

    def wake(self) -> None:
        """Tell that something was read; from the event loop."""
        self._read = True
        self._woken.set()

    def programming(self, name: str) -> Programming | None:
        """Whether an Experiment's routes are split; None if that is not known. From any thread."""
        return self._said.get(name)

    def carried(self, experiment: Experiment) -> Served:
        """Whether filters with an Experiment's buckets are applied, and since when. From any thread."""
        return self._carried.of(experiment, self._said.get(experiment.name))

    def revive(self, name: str) -> str:
        """What ``resume`` brings back of an Experiment's filters; empty if nothing. From any thread."""
        back = [
            "/".join(key)
            for key, entry in self._carrier.memory.entries.items()
            if name in entry.experiments and entry.fate in (Fate.REMOVED, Fate.REJECTED)
        ]
        return f"applies again: EnvoyFilter {', '.join(back)}" if back else ""

    async def run(self) -> None:
        """Keep them until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._woken.wait()
                await asyncio.sleep(DEBOUNCE)
            self._woken.clear()
            try:
                await self.step()
            except NotLeadingError:
                self._stop()
            except AbmeshError as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("cannot keep the EnvoyFilters; this is a bug in abmesh; trying again")
                self._failed(repr(error))

    async def step(self) -> None:
        """Do what there is to do now.

        Raises:
            AbmeshError: something cannot be done; what was done is done.
        """
        if not self._lease.held:
            self._stop()
            return
        if self._lease.epoch == self._epoch and self._carrier.probation.active and await self._carrier.look():
            self._versions = None
        if self._monotonic() < self._again:
            return
        if self._lease.epoch != self._epoch:
            await self._begin()
        if waiting := self._reading.waiting_for:
            self._trouble(waiting)
            return
        things = self._experiments.all()
        if self._view is None or self._read:
            self._read = False
            self._view = await asyncio.to_thread(self._reading.view)
        view = self._view
        there = tuple((key, item["metadata"].get("resourceVersion")) for key, item in sorted(view.filters.items()))
        versions = (view.versions, there, signature(things), self._carrier.probation.active, self._carrier.memory)
        if versions == self._versions:
            return
        made = await asyncio.to_thread(self._make, view)
        failures = await self._carrier.carry_out(made.plan)
        self._tell(made, failures)
        # Not before all is done: what failed is planned again. Our own writes are news, once, and change nothing.
        self._versions = None if failures else (*versions[:-1], self._carrier.memory)
        self._trouble(self._reading.trouble)
        if failures:
            self._again = self._monotonic() + RETRY

    async def _begin(self) -> None:
        self._owner = await self._carrier.begin()
        self._versions, self._again = None, 0.0
        if found := await self._rejects.version():
            self._settings = replace(self._settings, istio_version=found)
        self._epoch = self._lease.epoch
        self.status.managing = True

    def _make(self, view: View) -> _Made:
        """Plan; in a thread.

        Raises:
            AbmeshError: the Experiments are not known, or the API server does not say what is there.
        """
        things = self._experiments.all()
        accepted = {item.name: item for item in self._documents.read().document.experiments}
        wishes = self._wishing.of(things, accepted)
        everything = rendered = self._render(wishes.managed, view.resources, self._settings)
        gone = self._carrier.gone
        filters = {key: item for key, item in view.filters.items() if item["metadata"]["uid"] not in gone}
        if wishes.unmanaged:
            everything = self._render((*wishes.managed, *wishes.unmanaged), view.resources, self._settings)
        # Whoever begins to lead asks these proxies at once; the checks of what is to be written may take long.
        self._fleet.scopes = self._fleet.scopes or frozenset(i.scope for i in everything.filters if i.key in filters)
        at = Situation(
            rendered=rendered,
            existing=filters,
            memory=self._carrier.memory,
            now=datetime.now(UTC),
            resumes=wishes.resumes,
            experiments=wishes.names,
            unknown=wishes.unknown,
            left=frozenset(item.key for item in everything.filters) - {item.key for item in rendered.filters},
            faults=self._checks.faults(rendered),
            owner=self._owner,
            listener_updates=self._listener_updates,
        )
        # A watch may be a moment behind, and what it does not show yet was not deleted by anybody.
        missed = self._writer.there(doubtful(at))
        at = replace(at, existing={**filters, **missed})
        return _Made(rendered, plan(at), wishes, replace(view, filters=at.existing), everything)

    def _tell(self, made: _Made, failures: Mapping[Key, str]) -> None:
        said = verdicts.managed(made.rendered, made.plan, self._carrier.memory, failures)
        for item in made.wishes.unmanaged:
            name = item.experiment.name
            said[name] = verdicts.unmanaged(name, made.everything, made.view.filters)
        if made.wishes.unknown:
            # Of one that is not accepted, what was said stays.
            said = {**{name: self._said[name] for name in made.wishes.unknown if name in self._said}, **said}
        self._fleet.scopes = frozenset(item.scope for item in made.everything.filters)
        self._carried.note((*made.wishes.managed, *made.wishes.unmanaged), said, datetime.now(UTC))
        status = self.status
        status.held = {"/".join(key): message for key, (_, message, _) in made.plan.held.items()}
        status.kept = len(made.rendered.filters) - len(status.held) - len(failures)
        status.refusals = {name: each.reason for name, each in said.items() if each.truth != "True"}
        if said != self._said:
            for name, each in said.items():
                if each != self._said.get(name) and each.truth != "True":
                    log.warning("%s is not programmed: %s: %s", name, each.reason, each.message)
            self._said = said
            self._on_change()

    def _stop(self) -> None:
        """Do nothing while another process leads."""
        if self._epoch:
            self._epoch = 0
            self._carrier.probation.clear()
            self._carried.clear()
            self._said, self._versions = {}, None
            self._fleet.scopes = frozenset()
            _empty(self.status)

    def _failed(self, reason: str) -> None:
        self._trouble(reason)
        self._versions = None
        self._again = self._monotonic() + RETRY

    def _trouble(self, reason: str) -> None:
        if reason and reason != self.status.trouble:
            log.warning("EnvoyFilters: %s", reason)
        self.status.trouble = reason


def _empty(status: FiltersStatus) -> None:
    status.managing, status.kept, status.trouble, status.watched = False, 0, "", False
    status.held, status.refusals = {}, {}
