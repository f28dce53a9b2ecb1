"""What a controller is built on, whatever keeps its rollouts: files or a cluster. Made by :mod:`controller.wiring`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from controller.rollout.attendance import Attendance
from controller.rollout.guard import Guard
from controller.rollout.reconcile import Reconciler
from controller.routes.filters_status import FiltersStatus
from controller.routes.publisher import Publisher
from controller.sources.base import Source
from controller.sources.renderings import Renderings, RenderingsReader
from controller.state.ports import Leadership, StateReader


@dataclass(frozen=True, slots=True)
class Keeping:
    """What keeps rollouts.

    Attributes:
        experiments: where experiments are, for the line that says that the controller is ready.
        place: where all else is kept, for the same line.
        reconciler: judges, decides and applies.
        lease: makes sure that only one controller acts.
        renderings: what Envoys were rendered from.
        reader: finds that out; None if nobody can.
        guard: rolls back for harm while a leader hangs; None where a leader that hangs is replaced.
        publisher: keeps a routes file; None if there is none.
        attendant: does what else a leader has to do around each tick.
        wake: set by whoever wants a tick now.
        beside: what runs beside the ticks until it is cancelled.
        close: what to do at the end, before the lease is released; may take as long as a request.
        source: of statistics, where Envoys come and go; None where the settings name them.
        filters: the state of EnvoyFilters; None where there are none.
    """

    experiments: str
    place: str
    reconciler: Reconciler
    lease: Leadership
    renderings: Renderings
    reader: RenderingsReader | None = None
    guard: tuple[Guard, StateReader] | None = None
    publisher: Publisher | None = None
    attendant: Attendance | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    beside: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    close: Callable[[], None] = lambda: None
    source: Source | None = None
    filters: FiltersStatus | None = None
