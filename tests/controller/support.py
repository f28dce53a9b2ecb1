"""What the tests of the controller share: a document, statistics as Envoy prints them, a clock and a source."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.store import FileStore
from controller.decision.warmup import Warmups
from controller.evidence.parse import parse
from controller.records import JournalEntry, Phase
from controller.rollout.commit import Committer
from controller.rollout.reconcile import Reconciler
from controller.rollout.tick import TickReport
from controller.sources.base import Observation
from controller.state.documents import Documents
from controller.state.evidence import EvidenceStore
from controller.state.journal import Journal, read
from controller.state.locks import URGENT_SECONDS
from controller.state.states import StateStore

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NAME = "chat"
ENVOY = "http://127.0.0.1:9901"

DOCUMENT = """\
version: 1
experiments:
  - name: chat
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 100, control: true}   # the old one
      - {name: model-b, cluster: b, weight: 0}
    rollout:
      candidate: model-b
      steps: [10, 50, 100]
      stage: {min_duration: 60s, max_duration: 1h, min_requests: 100}
      guardrails:
        - {metric: error_rate, max: 5%}
        - {metric: latency_p95, max: 500ms}
"""


PRICE = {"input": 0.5, "output": 2.0}


def experiment(**changes: Any) -> Experiment:
    """An experiment of two variants; ``weight`` is the candidate's in percent, ``rollout`` changes its plan."""
    rollout = {
        "candidate": "model-b",
        "steps": [10, 50, 100],
        "stage": {"min_duration": "60s", "max_duration": "1h", "min_requests": 100},
        "guardrails": [{"metric": "error_rate", "max": "5%"}],
        **changes.pop("rollout", {}),
    }
    weight = changes.pop("weight", 10)
    fields = {
        "name": NAME,
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {"name": "model-a", "cluster": "a", "weight": 100 - weight, "control": True, "price": PRICE},
            {"name": "model-b", "cluster": "b", "weight": weight, "price": PRICE},
        ],
        "events": ["click", "thumbs_up", "thumbs_down"],
        "rollout": rollout,
        **changes,
    }
    return Document.model_validate({"version": 1, "experiments": [fields]}).experiments[0]


@dataclass
class Traffic:
    """One Envoy's cumulative statistics, as its admin endpoint prints them."""

    started: datetime = START - timedelta(hours=1)
    name: str = NAME
    counters: dict[str, int] = field(default_factory=dict)
    bins: dict[str, dict[tuple[float, float], int]] = field(default_factory=dict)
    served: int = 0

    def serve(self, variant: str, requests: int, *, code: int = 200, ms: int = 100, slice_: int | None = None) -> None:
        """Requests that all ended alike, of one slice's users or of everybody's."""
        if slice_ is None:
            for each in range(50):
                # As many in every slice as can be, and the rest in slices that change from call to call.
                number = (each * 7 + self.served) % 50
                share = requests // 50 + (each < requests % 50)
                if share:
                    self._serve(variant, share, code, ms, number)
            self.served += 13
        else:
            self._serve(variant, requests, code, ms, slice_)

    def _serve(self, variant: str, requests: int, code: int, ms: int, slice_: int) -> None:
        who = f"experiment.{self.name}.variant.{variant}"
        self._count(f"abmesh.requests.{who}.slice.{slice_}.code.{code}", requests)
        self._count(f"abmesh.duration_ms.{who}.slice.{slice_}", requests * ms)
        bins = self.bins.setdefault(f"abmesh.duration.{who}.group.{slice_ // 5}", {})
        bins[ms, 10] = bins.get((ms, 10), 0) + requests

    def restart(self, now: datetime) -> None:
        """The process starts again and has counted nothing."""
        self.started = now
        self.counters.clear()
        self.bins.clear()

    def answer(self, now: datetime) -> str:
        """What the admin endpoint would say."""
        lines = [f"{name}: {value}" for name, value in self.counters.items()]
        lines.append(f"server.uptime: {int((now - self.started).total_seconds()) % 2**64}")
        for name, it in self.bins.items():
            totals = ", ".join(f"{lower:g},{width:g}:{count}" for (lower, width), count in it.items())
            lines += [f"{name}:", f"  totals={totals}", "  intervals=", "  summary=P0(nan,1) P100(nan,1)"]
        return "\n".join([*lines, ""])

    def _count(self, name: str, value: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + value


@dataclass
class World:
    """A document, a state folder, Envoys and a clock, with a reconciler on them that can be restarted."""

    folder: Path
    documents: Documents
    now: datetime = START
    envoys: dict[str, Traffic] = field(default_factory=lambda: {ENVOY: Traffic()})
    absent: set[str] = field(default_factory=set)
    settle: timedelta = timedelta(seconds=5)
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    @property
    def states(self) -> StateStore:
        return StateStore(self.folder)

    def lose_states(self) -> None:
        """The files of all states, and their copies, are gone."""
        shutil.rmtree(self.folder / "rollouts")

    def damage_states(self) -> None:
        """So are they, but for a byte each."""
        for path in (self.folder / "rollouts").iterdir():
            path.write_text("{")

    @property
    def traffic(self) -> Traffic:
        return self.envoys[ENVOY]

    def restart(self) -> None:
        """A new controller process on what is on disk."""
        states, journal = StateStore(self.folder), Journal(self.folder)
        self.reconciler = Reconciler(
            states=states,
            journal=journal,
            evidence=EvidenceStore(self.folder),
            documents=self.documents,
            transitions=Committer(states, journal, self.documents, URGENT_SECONDS),
            settle=self.settle,
        )

    def observe(self) -> list[Observation]:
        return [
            Observation(name, None, "no answer within 2 s")
            if name in self.absent
            else Observation(name, parse(traffic.answer(self.now)))
            for name, traffic in self.envoys.items()
        ]

    def tick(self, seconds: float = 5.0, warmups: Warmups | None = None) -> TickReport:
        """Time passes, then one tick."""
        self.now += timedelta(seconds=seconds)
        return self.reconciler.reconcile(self.observe(), self.now, self.now, warmups)

    def weight(self) -> int:
        """The candidate's weight in the document, in basis points."""
        return self.documents.read().document.experiment(NAME).weights["model-b"]

    def phase(self) -> Phase:
        """The rollout's phase in the state."""
        return self.states.read().experiments[NAME].phase

    def journal(self) -> list[JournalEntry]:
        return read(self.folder / "journal.jsonl")

    def moves(self) -> list[tuple[str, int, int]]:
        """Every journalled decision that moved the candidate: kind, weight before, weight after."""
        return [
            (entry.kind.value, entry.weights_before["model-b"], entry.weights_after["model-b"])
            for entry in self.journal()
            if entry.weights_before != entry.weights_after
        ]


def world(folder: Path, text: str = DOCUMENT) -> World:
    """A world with a document in a folder."""
    path = folder / "experiments.yaml"
    path.write_text(text)
    return World(folder / "state", FileStore(path))


class Fed(Protocol):
    """A controller whose Envoys tests feed: a :class:`World`, or one whose rollouts are kept elsewhere."""

    envoys: dict[str, Traffic]

    def weight(self) -> int: ...

    def tick(self, seconds: float = 5.0) -> TickReport: ...


def serve(subject: Fed, requests: int, *, code: int = 200, ms: int = 100) -> None:
    """Traffic as the weights say: so many of the candidate's requests per Envoy, and good ones of the control."""
    weight = subject.weight()
    for traffic in subject.envoys.values():
        traffic.serve("model-a", requests * (10_000 - weight) // weight if weight else requests)
        if weight:
            traffic.serve("model-b", requests, code=code, ms=ms)


def serve_and_tick(
    subject: Fed, ticks: int, *, good: int = 50, bad: int = 0, ms: int = 100, seconds: float = 5.0
) -> None:
    """Ticks so many seconds apart, with traffic as the weights say before each: so much to the candidate."""
    for _ in range(ticks):
        for traffic in subject.envoys.values():
            weight = subject.weight()
            traffic.serve("model-a", (good + bad) * (10_000 - weight) // weight if weight else 50)
            if weight:
                traffic.serve("model-b", good, ms=ms)
                traffic.serve("model-b", bad, code=503, ms=ms)
        subject.tick(seconds)
