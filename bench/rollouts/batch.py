"""Runs many rollouts at once: one real Envoy, one server, one controller, users for each. For tests and the table."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from abmesh.analysis.truth import HeavyUser
from abmesh.experiment.codec import parse
from abmesh.local.stack import Stack, StackOptions, fetch
from bench.load import request_of, run_load
from bench.rollouts.people import visits, with_heavy
from bench.rollouts.plans import CANDIDATE, CONTROL, Plan, document, heavy_users, names_of
from bench.rollouts.upstream import UNIT, Model, Upstream, serving
from controller.records import Phase
from controller.rollout.status import read_status
from controller.settings import Settings
from controller.state.journal import read
from controller.state.states import StateStore

INTERVAL: Final = timedelta(seconds=1)
_SETTLE: Final = timedelta(milliseconds=700)  # more than the rendered Envoy's flush interval of 500 ms
_LOOK: Final = 0.5
_CHUNK: Final = 300
_IN_FLIGHT: Final = 28
"""Requests of all rollouts that are under way at a time. More would wait for the machine rather than for the models."""
_LONGEST: Final = 900.0
_LAST_TICKS: Final = 60.0


class BatchError(RuntimeError):
    """A batch proved nothing: requests went astray or time ran out."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How one rollout ended, or stood when its users stopped.

    Attributes:
        name: of the experiment.
        plan: name of the scenario.
        phase: of the rollout, as the state has it.
        highest: the candidate's highest weight, in percent.
        cause: of the decision that ended it, or of the last one.
        reason: of that decision.
        requests: answered, of both variants.
        naive: whether a naive test would have rolled back, at some look up to then.
        entries: decisions in the journal.
    """

    name: str
    plan: str
    phase: str
    highest: float
    cause: str
    reason: str
    requests: int
    naive: bool
    entries: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch came to.

    Attributes:
        rollouts: in the order of the plans.
        seconds: from the controller's start to the end of the last rollout.
        requests: answered by the models.
        ticks: of the controller; each looked at every rollout.
        tick_seconds: mean length of a tick.
        unassigned: requests that reached no variant as evidence.
        config: the document, for commands.
        state: the controller's folder, for commands.
    """

    rollouts: tuple[Rollout, ...]
    seconds: float
    requests: int
    ticks: int
    tick_seconds: float
    unassigned: int
    config: Path
    state: Path


async def run(plans: Sequence[Plan], folder: Path, seed: int, *, at_least: float = 0.0) -> Batch:
    """Roll out all plans at once, each until it is decided or its users stop.

    Args:
        plans: what to roll out; those with ``per_minute`` go on until all others have ended.
        folder: for documents, state and logs.
        seed: of users and salts.
        at_least: seconds that plans with ``per_minute`` are given.

    Raises:
        BatchError: it took more than 15 minutes, or the controller stopped looking.
        ProcessError: a program does not start.
    """
    names = names_of(plans)
    models: dict[tuple[str, str], Model] = {}
    for name, plan in zip(names, plans, strict=True):
        models |= {(name, CONTROL): plan.control, (name, CANDIDATE): plan.candidate}
    options = StackOptions(
        models={},
        interval=INTERVAL,
        controller_later=True,
        settle=_SETTLE,
        message_timeout=timedelta(seconds=10),
    )
    # Where the models listen changes nobody's bucket.
    experiments = parse(document(plans, 1, seed), "the rollouts").experiments
    heavy = {item.name: heavy_users(item, plan) for item, plan in zip(experiments, plans, strict=True)}
    rates = {
        name: user.error_rate for users in heavy.values() for name, user in users.items() if user.error_rate is not None
    }
    async with serving(models, seed, rates) as upstream:
        stack = Stack(document(plans, upstream.port, seed), options, folder)
        async with stack:
            await stack.start_controller()
            began = time.monotonic()
            crowd = _Crowd(stack, upstream, seed, began + at_least, heavy)
            try:
                async with asyncio.timeout(_LONGEST):
                    await crowd.live(dict(zip(names, plans, strict=True)))
            except TimeoutError:
                raise BatchError(f"the rollouts have not ended in {_LONGEST:g} s; see the logs in {folder}") from None
            await _two_more_ticks(stack)
            seconds = time.monotonic() - began
            ticks, tick_seconds = await _ticks(stack)
        found = _ended(stack, names, plans, crowd.stopped)
    return Batch(
        rollouts=found,
        seconds=seconds,
        requests=sum(sum(answered.requests.values()) for answered in upstream.answered.values()),
        ticks=round(ticks),
        tick_seconds=tick_seconds / max(ticks, 1),
        unassigned=upstream.unknown,
        config=stack.config,
        state=stack.state,
    )


class _Crowd:
    """The users of all rollouts."""

    def __init__(
        self, stack: Stack, upstream: Upstream, seed: int, until: float, heavy: Mapping[str, Mapping[str, HeavyUser]]
    ) -> None:
        self._stack = stack
        self._upstream = upstream
        self._seed = seed
        self._until = until
        self._heavy = heavy
        self._states = StateStore(stack.state)
        self._over: set[str] = set()
        self._active = 0
        self.stopped: dict[str, tuple[int, bool]] = {}
        """Requests, and whether naive peeking had alarmed, when a rollout ended."""

    async def live(self, plans: dict[str, Plan]) -> None:
        """Send requests until every rollout has ended."""
        self._active = sum(plan.per_minute is None for plan in plans.values())
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            fast = [tasks.create_task(self._hurry(name, p)) for name, p in plans.items() if p.per_minute is None]
            slow = [tasks.create_task(self._dawdle(name, p)) for name, p in plans.items() if p.per_minute is not None]
            if fast:
                await asyncio.wait(fast)
            await asyncio.sleep(max(0.0, self._until - time.monotonic()) if slow else 0.0)
            for task in (watching, *slow):
                task.cancel()

    async def _watch(self) -> None:
        while True:
            for name, state in self._states.read().experiments.items():
                if state.phase in (Phase.PROMOTED, Phase.ROLLED_BACK) and name not in self._over:
                    self._over.add(name)
                    self._note(name)
            await asyncio.sleep(_LOOK)

    def _note(self, name: str) -> None:
        answered = self._upstream.answered[name]
        self.stopped.setdefault(name, (sum(answered.requests.values()), answered.peeking.alarmed))

    def _users(self, name: str) -> Iterator[str]:
        shares = {user: item.share for user, item in self._heavy[name].items()}
        return with_heavy(visits(name, self._seed), shares, self._seed)

    async def _hurry(self, name: str, plan: Plan) -> None:
        users, sent = self._users(name), 0
        while name not in self._over and sent < plan.most:
            chunk = [_request(name, user) for user in itertools.islice(users, _CHUNK)]
            connections = max(1, _IN_FLIGHT // self._active)
            await run_load(self._stack.ports["envoy"], chunk, count=_CHUNK, connections=connections)
            sent += _CHUNK
        self._active -= 1
        self._note(name)

    async def _dawdle(self, name: str, plan: Plan) -> None:
        assert plan.per_minute is not None
        try:
            for user in self._users(name):
                await run_load(self._stack.ports["envoy"], [_request(name, user)], count=1, connections=1)
                await asyncio.sleep(60 / plan.per_minute)
        finally:
            self._note(name)


def _request(name: str, user: str) -> bytes:
    return request_of(f"/{name}/", (f"{UNIT}: {user}",))


async def _ticks(stack: Stack) -> tuple[float, float]:
    """How many ticks the controller has ended, and the seconds that they took together."""
    text = await fetch(f"{stack.controller_url}/metrics") or ""
    found = dict(line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))
    return (
        float(found.get("abmesh_controller_ticks_total", 0)),
        float(found.get("abmesh_controller_tick_seconds_sum", 0)),
    )


async def _two_more_ticks(stack: Stack) -> None:
    """Wait until what was answered last, with the histograms that Envoy flushes later, has been looked at."""
    before, _ = await _ticks(stack)
    deadline = time.monotonic() + _LAST_TICKS
    while time.monotonic() < deadline:
        if (await _ticks(stack))[0] >= before + 2:
            return
        await asyncio.sleep(_LOOK)
    raise BatchError(f"the controller made no two ticks in {_LAST_TICKS:g} s; see controller.log in {stack.folder}")


def _ended(
    stack: Stack, names: Sequence[str], plans: Sequence[Plan], stopped: dict[str, tuple[int, bool]]
) -> tuple[Rollout, ...]:
    settings = Settings(config=stack.config, state_dir=stack.state)
    statuses = {status.experiment: status for status in read_status(settings)}
    entries = read(settings.journal_path)
    found = []
    for name, plan in zip(names, plans, strict=True):
        mine = [entry for entry in entries if entry.experiment == name]
        ended = [entry for entry in mine if entry.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)]
        last = statuses[name].decision if not ended else ended[0].decision
        assert last is not None
        requests, naive = stopped[name]
        found.append(
            Rollout(
                name=name,
                plan=plan.name,
                phase=statuses[name].phase,
                highest=max(entry.weights_after[CANDIDATE] for entry in mine) / 100,
                cause=last.cause.value,
                reason=last.reason,
                requests=requests,
                naive=naive,
                entries=len(mine),
            )
        )
    return tuple(found)
