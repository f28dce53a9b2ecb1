"""A world like :class:`tests.controller.support.World`, whose controller keeps everything in a cluster."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Missing
from abmesh.kube.resources import EXPERIMENTS, LEASES
from controller.cluster.lease import Times
from controller.cluster.names import LEASE, REQUEST
from controller.cluster.status import status_of
from controller.cluster.stores import Stores, stores
from controller.evidence.parse import parse
from controller.records import JournalEntry, Phase
from controller.rollout.tick import TickReport
from controller.sources.base import Observation
from controller.state.lease import Heartbeat
from tests.controller.support import ENVOY, START, Traffic, serve_and_tick

OURS = "abmesh"
"""The controller's own namespace in tests with the fake API server."""

SPEC: dict[str, Any] = {
    "routes": [{"kind": "HTTPRoute", "name": "chat", "rule": "v1"}],
    "unit": [{"header": "x-user-id"}],
    "variants": [
        {"name": "model-a", "backend": {"service": "model-a", "port": 8000}, "weight": 100, "control": True},
        {"name": "model-b", "backend": {"service": "model-b", "port": 8000}, "weight": 0},
    ],
    "rollout": {
        "candidate": "model-b",
        "steps": [10, 50, 100],
        "stage": {"minDuration": "60s", "maxDuration": "1h", "minRequests": 100},
        "guardrails": [{"metric": "error_rate", "max": "5%"}, {"metric": "latency_p95", "max": "500ms"}],
    },
}


def spec(weight: float = 0, **changes: Any) -> dict[str, Any]:
    """A spec with the candidate at a weight in percent; ``changes`` replace fields of its rollout."""
    found = copy.deepcopy(SPEC)
    found["variants"][0]["weight"], found["variants"][1]["weight"] = 100 - weight, weight
    found["rollout"] |= changes
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.01)


def manifest(namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """An Experiment as people apply it."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": EXPERIMENTS.api_version, "kind": EXPERIMENTS.kind, "metadata": metadata, "spec": body}


@dataclass
class ClusterWorld:
    """One Experiment, an API server, Envoys and a clock, with a controller on them that can be restarted.

    Attributes:
        connect: makes a client of the API server, one for each controller and one for people.
    """

    connect: Callable[[], Client]
    namespace: str = "llm"
    own: str = OURS
    bare: str = "chat"
    body: dict[str, Any] = field(default_factory=spec)
    now: datetime = START
    absent: set[str] = field(default_factory=set)
    settle: timedelta = timedelta(seconds=5)
    told: list[str] = field(default_factory=list)
    times: Times = field(default_factory=lambda: Times(duration=60, deadline=50, every=40))
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        self.people = self.connect()
        self.client = self.connect()
        self.envoys = {ENVOY: Traffic(name=self.name)}
        self.people.create(EXPERIMENTS, self.namespace, manifest(self.namespace, self.bare, self.body))
        self.start()

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.bare}"

    @property
    def traffic(self) -> Traffic:
        return self.envoys[ENVOY]

    def start(self) -> None:
        """A controller process begins, and does not lead yet."""
        self.stores = stores(
            self.client,
            self.own,
            settle=self.settle,
            times=self.times,
            tell=self.told.append,
            monotonic=lambda: (self.now - START).total_seconds(),
        )

    def restart(self) -> None:
        """The controller was killed, its Lease ran out, and another process starts."""
        self.stores.lease.lost("the test killed it")
        with contextlib.suppress(Missing):
            self.people.delete(LEASES, self.own, LEASE)
        self.start()

    def close(self) -> None:
        self.stores.lease.release()

    def watch(self) -> None:
        """What the watch would have said by now."""
        try:
            listed = self.client.list(EXPERIMENTS)
        except KubeError as error:
            self.stores.experiments.trouble = str(error)
            return
        items = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in listed.items}
        self.stores.experiments.take(SimpleNamespace(items=items, trouble=""))

    def observe(self) -> list[Observation]:
        return [
            Observation(name, None, "no answer within 2 s")
            if name in self.absent
            else Observation(name, parse(traffic.answer(self.now)))
            for name, traffic in self.envoys.items()
        ]

    def tick(self, seconds: float = 5.0) -> TickReport:
        """Time passes, then one tick, as :class:`controller.loop.Controller` does it."""
        self.now += timedelta(seconds=seconds)
        self.watch()
        if not self.stores.lease.held:
            assert self.stores.lease.acquire()
        self.stores.attendant.before(self.now)
        report = self.stores.reconciler.reconcile(self.observe(), self.now, self.now)
        self.stores.attendant.after(report, self.now)
        self.stores.lease.beat(Heartbeat(at=self.now, every=60))
        return report

    def thing(self) -> dict[str, Any]:
        """The Experiment as the API server has it."""
        return self.people.get(EXPERIMENTS, self.namespace, self.bare)

    def status(self) -> dict[str, Any]:
        return status_of(self.thing())

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the status; empty if there is none."""
        return next((item for item in self.status().get("conditions", []) if item["type"] == kind), {})

    def weight(self) -> int:
        """The candidate's weight in force, in basis points, as a server would find it."""
        self.watch()
        return self.stores.documents.read().document.experiment(self.name).weights["model-b"]

    def phase(self) -> Phase:
        self.watch()
        return self.stores.states.read().experiments[self.name].phase

    def edit(self, body: dict[str, Any]) -> None:
        """A person changes the spec."""
        self.people.merge_patch(EXPERIMENTS, self.namespace, self.bare, {"spec": body})

    def ask(self, request_id: str, action: str, **arguments: Any) -> dict[str, Any]:
        """A person asks for something, and a tick passes; the answer."""
        request = {"id": request_id, "action": action, "by": "ada", "arguments": arguments}
        annotations = {REQUEST: json.dumps(request)}
        self.people.merge_patch(EXPERIMENTS, self.namespace, self.bare, {"metadata": {"annotations": annotations}})
        self.tick(0.1)
        found = self.status()["lastRequest"]
        assert isinstance(found, dict)
        return found

    def reapply(self, body: dict[str, Any] | None = None) -> None:
        """Somebody deletes the Experiment and applies it again."""
        self.people.delete(EXPERIMENTS, self.namespace, self.bare)
        self.people.create(EXPERIMENTS, self.namespace, manifest(self.namespace, self.bare, body or self.body))

    def journal(self) -> list[JournalEntry]:
        """What another process would read of the journal."""
        fresh = stores(self.people, self.own, settle=self.settle)
        fresh.experiments.list_now()
        return fresh.journal.entries(self.name)

    def moves(self) -> list[tuple[str, int, int]]:
        """Every journalled decision that moved the candidate: kind, weight before, weight after."""
        return [
            (entry.kind.value, entry.weights_before["model-b"], entry.weights_after["model-b"])
            for entry in self.journal()
            if entry.weights_before != entry.weights_after
        ]


def serve_until(world: ClusterWorld, weight: int) -> None:
    """Traffic and ticks until the candidate's weight is so many basis points."""
    for _ in range(200):
        if world.weight() == weight:
            return
        serve_and_tick(world, 1)
    raise AssertionError(f"the candidate stays at {world.weight()}")


def judge_first_step(world: ClusterWorld) -> None:
    """Traffic and ticks until the first step has been judged, and goes on."""
    serve_until(world, 1000)
    serve_and_tick(world, 8, good=40)


@contextlib.contextmanager
def ticking(world: ClusterWorld, every: float) -> Iterator[ClusterWorld]:
    """A controller that ticks in a thread, so many seconds after each tick, while the context lasts."""
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(every):
            world.tick(0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield world
    finally:
        stop.set()
        thread.join()
