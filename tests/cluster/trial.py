"""A rollout by the shipped chart that goes on through one fault after the other, and what must be right after each.

async with rollout.through("the leader killed") as trial:
    trial.edit()          # a person's, of another Experiment
    ...                   # the fault, and its end
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from abmesh.kube.client import Client
from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.stores import Stores, stores
from controller.records import JournalEntry, Kind
from tests.cluster.asking import Json
from tests.cluster.history import History
from tests.cluster.load import Load, Sent
from tests.cluster.shipped_world import Shipped
from tests.cluster.waiting import wait_for

CHAT: Final = "chat"
OTHER: Final = "other"
STEPS: Final = tuple(range(20, 101, 2))
"""Enough for all faults: the ramp is never over before they are."""

USERS: Final = tuple(f"user-{number}" for number in range(300))
LIMIT: Final = 240.0
RATE: Final = 30.0
LATE: Final = 2.0
"""How much later than it begins a tick may have asked the last gateway."""


async def until(condition: Callable[[], object], what: str, seconds: float = LIMIT) -> None:
    """Wait for a condition in a thread; requests go on meanwhile."""
    await asyncio.to_thread(wait_for, condition, what, seconds)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one step rests on.

    Attributes:
        since: when its evidence begins, in seconds on the monotonic clock.
        requests: in the evidence.
        due: requests that were sent and answered in that time.
    """

    since: float
    requests: int
    due: int


@dataclass
class Trial:
    """One fault under load.

    Attributes:
        rollout: that goes on.
        history: of what is in force of it.
        other: of the Experiment that people edit.
        load: what users send.
        servers: ``http://HOST:PORT`` of each server's ``/healthz``.
        wanted: the candidate's weight in the last edit, in percent; None before the first.
        edited: when it was made, in seconds on the monotonic clock.
        unassigned: whether users may be left to their route's owner at a time, because there is no Experiment.
        uncounted: whether requests of a time need not be in the evidence.
    """

    rollout: Rollout
    history: History
    other: History
    load: Load
    servers: list[str]
    wanted: int | None = None
    edited: float = 0.0
    unassigned: Callable[[Sent], bool] = field(default=lambda _: False)
    uncounted: Callable[[Sent], bool] = field(default=lambda _: False)

    def edit(self) -> None:
        """A person edits the weights of the other Experiment; once this returns, the API server has it."""
        self.wanted = self.rollout.next_edit()
        self.rollout.weigh(OTHER, self.wanted)
        self.edited = time.monotonic()

    def served(self) -> bool:
        """Whether every server serves the last edit."""
        moments = self.other.moments
        if not moments or moments[-1].experiment.weights["model-b"] != 100 * (self.wanted or 0):
            return False
        return set(moments[-1].servers) == set(self.servers)

    def taken(self) -> bool:
        """Whether the controller has taken the last edit over."""
        status = self.rollout.world.status(OTHER)
        seen = status.get("lastSeenSpecWeights", {}).get("model-b")
        return (seen, status.get("weights", {}).get("model-b"), status.get("phase")) == (
            self.wanted,
            self.wanted,
            "Manual",
        )

    def wrong(self) -> Counter[str]:
        """Requests that went astray."""
        return self.history.wrong(each for each in self.load.sent if not self.unassigned(each))


@dataclass
class Rollout:
    """Two Experiments on the same routes: one ramps, people edit the other.

    Attributes:
        world: where they are.
        people: a client with every right.
    """

    world: Shipped
    people: Client = field(init=False)
    _edits: int = 10

    def __post_init__(self) -> None:
        self.people = Client(self.world.connection)

    def _stores(self) -> Stores:
        """What another process would read now."""
        found = stores(self.people, self.world.release.namespace, settle=timedelta(), tell=lambda _: None)
        found.experiments.list_now()
        return found

    def bodies(self) -> list[Json]:
        """Both Experiments as their owner has them in Git."""
        stage = {"minDuration": "6s", "minRequests": 20}
        plan = {"candidate": "model-b", "steps": list(STEPS), "stage": stage}
        chat = self.world.experiment(CHAT, 100, 0, rollout=plan)
        edited, match = self._edits, {"pathPrefix": "/v1/other/"}
        other = self.world.experiment(OTHER, 100 - edited, edited, rollout=plan, match=match)
        return [chat, other]

    def begin(self) -> None:
        """Apply both, and wait until users are split."""
        self.world.apply(*self.bodies())
        for name in (CHAT, OTHER):
            self.world.wait_until_programmed(name)

    def next_edit(self) -> int:
        """Another weight than before, in percent."""
        self._edits = self._edits % 90 + 1
        return self._edits

    def weigh(self, name: str, weight: int) -> None:
        """Edit the spec's weights; the candidate's is given in percent."""
        changes = [
            {"op": "replace", "path": f"/spec/variants/{number}/weight", "value": share}
            for number, share in enumerate((100 - weight, weight))
        ]
        self.people.json_patch(EXPERIMENTS, self.world.namespace, name, changes)

    def weight(self) -> float:
        """The ramp's, in percent, as its status has it."""
        return float(self.world.status(CHAT).get("weights", {}).get("model-b", 0))

    def journal(self) -> list[JournalEntry]:
        """Of the ramp, as another process reads it."""
        return self._stores().journal.entries(f"{self.world.namespace}/{CHAT}")

    def check(self, things: Sequence[Json]) -> None:
        """No step of the ramp was skipped, or done twice, by anybody; none of the evidence behind it is gone."""
        entries = [entry for entry in self.journal() if entry.weights_before != entry.weights_after]
        moves = [(entry.weights_before["model-b"], entry.weights_after["model-b"]) for entry in entries]
        weights = [0, *(100 * step for step in STEPS)]
        done = [*itertools.pairwise(weights)][: weights.index(moves[-1][1])]
        assert moves == done[-len(moves) :], moves
        assert {entry.kind for entry in entries} == {Kind.ADVANCE}
        assert len({entry.id for entry in entries}) == len(entries)
        kept = self._stores().evidence.read(f"{self.world.namespace}/{CHAT}")
        assert kept is not None
        past = [stage.weights["model-b"] for stage in kept.history.past]
        assert past == [weight for weight in weights[1:] if weight <= max(past)], past
        seen = [round(100 * thing["status"]["weights"]["model-b"]) for thing in things if _weights(thing)]
        assert seen == sorted(seen), seen
        assert set(seen) <= set(weights), seen
        epochs = [thing["status"]["leader"]["epoch"] for thing in things if "leader" in thing.get("status", {})]
        assert epochs == sorted(epochs), epochs

    def counting(self) -> str:
        """The present stage of the ramp, if it has begun to count; empty if it has not."""
        kept = self._stores().evidence.read(f"{self.world.namespace}/{CHAT}")
        stage = str(self.world.status(CHAT).get("stage", {}).get("id"))
        return stage if kept is not None and kept.window is not None and kept.stage == stage else ""

    def counted(self, sent: Sequence[Sent], clock: float) -> dict[str, Counted]:
        """What the steps rest on that were taken since requests are sent, by the stage that they ended.

        Args:
            sent: what must have been counted.
            clock: the wall's clock less the monotonic one, in seconds.
        """
        found = {}
        for entry in self.journal():
            if entry.weights_before == entry.weights_after or entry.at.timestamp() < sent[0].begun + clock:
                continue
            inputs = entry.inputs or {}
            if not inputs.get("began"):  # the first step rests on no evidence
                continue
            since, ends = (datetime.fromisoformat(inputs[name]).timestamp() - clock for name in ("began", "at"))
            due = sum(since + LATE < each.begun and each.ended < ends - LATE for each in sent)
            requests = sum(int(each["requests"]) for each in entry.evidence.values())
            found[entry.stage.id] = Counted(since, requests, due)
        return found

    @contextlib.asynccontextmanager
    async def through(self, what: str) -> AsyncIterator[Trial]:
        """The fault, and its end, are the block; afterwards everything must go on, and nothing may be missing."""
        history, other = History(self.world, CHAT), History(self.world, OTHER)
        load = Load({name: gateway.door for name, gateway in self.world.gateways.items()}, USERS, rate=RATE)
        clock, servers = time.time() - time.monotonic(), self.world.servers()
        async with history.followed(), other.followed(), load.running():
            await until(lambda: len(load.sent) > RATE and self.counting(), "evidence before the fault")
            stage = await asyncio.to_thread(self.counting)
            trial, begun = Trial(self, history, other, load, servers), time.monotonic()
            yield trial
            for program in self.world.cluster.plane.ended():
                program.launch()
                await until(program.is_ready, f"{program.name} to be ready again")
            ended, stood = time.monotonic(), self.weight()
            if trial.wanted is None:
                trial.edit()
            await until(trial.served, "every server to serve the edit")
            served = time.monotonic()
            await until(trial.taken, "the controller to take the edit over")
            taken = time.monotonic()
            await until(lambda: self.weight() > stood, "the ramp to go on")
            right = time.monotonic()
        sent = load.sent
        failed = Counter(f"{each.door}: {each.status}" for each in sent if each.status != 200)
        counted = self.counted([each for each in sent if not trial.uncounted(each)], clock)
        print(
            f"{what}: {len(sent)} requests, {failed.total()} failed, {trial.wrong().total()} wrong; the fault lasted "
            f"{ended - begun:.1f} s; after it the edit was served in {max(0, served - ended):.1f} s, the controller "
            f"had it in {taken - ended:.1f} s, the next step came in {right - ended:.1f} s; requests in the steps' "
            f"evidence, and sent meanwhile: {[(each.requests, each.due) for each in counted.values()]}"
        )
        assert not failed, failed
        assert not trial.wrong(), trial.wrong()
        assert not stage or counted[stage].since < begun, "the evidence from before the fault counts"
        assert all(each.requests >= each.due for each in counted.values()), counted
        await asyncio.to_thread(self.check, history.things)


def _weights(thing: Json) -> Any:
    return thing.get("status", {}).get("weights")
