"""What a tick over many Envoys costs: CPU time and memory of a controller, from 1 to 200 Envoys.

For each size a fresh process (``python -m bench.evidence``) has the controller's own source and reconciler on a
document of ten experiments, and ticks a few times over the answers that :mod:`bench.fleet` serves in another process.
Nothing is left out: it asks, reads, decides, and keeps everything on disk. Every count of every Envoy grows between two
ticks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from abmesh.experiment.store import FileStore
from bench import fleet
from bench.recording import EXPERIMENTS, document
from controller.evidence.columns import Parser
from controller.evidence.parse import Sample
from controller.rollout.commit import Committer
from controller.rollout.reconcile import Reconciler
from controller.sources.envoy_admin import EnvoyAdminSource
from controller.state.evidence import EvidenceStore, StageEvidence
from controller.state.journal import Journal
from controller.state.states import StateStore

SIZES: Final = (1, 10, 50, 200)
TICKS: Final = 5
"""The first one learns every name and opens the evidence, and is reported by itself."""

_ROLLOUT: Final = {
    "candidate": "model-b",
    "steps": [25, 100],
    "stage": {"min_duration": "1h", "max_duration": "2h", "min_requests": 1000},
    "guardrails": [
        {"metric": "error_rate", "max": "50%"},
        {"metric": "latency_p95", "max": "10s"},
        {"metric": "latency_p95", "max_increase": "5s"},
    ],
}


@dataclass
class Spent:
    """CPU seconds of one tick's parts.

    Attributes:
        total: of the whole process.
        ask: asking, and reading answers from connections.
        parse: from text to counts.
        collect: differences, sums, verdicts and decisions.
        keep: on disk.
    """

    total: float = 0.0
    ask: float = 0.0
    parse: float = 0.0
    collect: float = 0.0
    keep: float = 0.0


@dataclass
class _Stopwatch:
    spent: Spent = field(default_factory=Spent)


class _TimedParser(Parser):
    def __init__(self, watch: _Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def parse(self, text: bytes) -> Sample:
        started = time.thread_time()
        try:
            return super().parse(text)
        finally:
            self._watch.spent.parse += time.thread_time() - started


class _TimedStore(EvidenceStore):
    def __init__(self, folder: Path, watch: _Stopwatch) -> None:
        super().__init__(folder)
        self._watch = watch

    def write(self, experiment: str, live: StageEvidence) -> None:
        started = time.thread_time()
        super().write(experiment, live)
        self._watch.spent.keep += time.thread_time() - started


async def tick_repeatedly(base: str, envoys: int, folder: Path, ticks: int) -> list[Spent]:
    """Ticks over a fleet, one at each of its moments.

    Raises:
        RuntimeError: an Envoy did not answer, or an experiment was not dealt with.
    """
    plain = document(9).model_dump(mode="json", exclude_defaults=True)
    for experiment in plain["experiments"]:
        experiment["rollout"] = _ROLLOUT
    config = folder / "experiments.yaml"
    config.write_text(json.dumps(plain))  # JSON is YAML
    watch = _Stopwatch()
    states, journal, documents = StateStore(folder / "state"), Journal(folder / "state"), FileStore(config)
    reconciler = Reconciler(
        states=states,
        journal=journal,
        evidence=_TimedStore(folder / "state", watch),
        documents=documents,
        transitions=Committer(states, journal, documents),
        settle=timedelta(),
    )
    source = EnvoyAdminSource([f"{base}/{number}" for number in range(envoys)], timeout=60, parser=_TimedParser(watch))
    now = datetime.now(UTC)
    spent = []
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(ticks):
                watch.spent = Spent()
                started = time.process_time()
                observations = await source.observe()
                observed = time.process_time()
                report = await asyncio.to_thread(reconciler.reconcile, observations, now, now)
                ended = time.process_time()
                absent = [item.error for item in observations if item.sample is None]
                if absent or report.failures or len(report.outcomes) != EXPERIMENTS:
                    found = (absent[:1], report.document_error, report.failures)
                    raise RuntimeError(f"{len(absent)} Envoys did not answer, or experiments were left out: {found}")
                del observations
                parts = watch.spent
                parts.total, parts.ask = ended - started, observed - started - parts.parse
                parts.collect = ended - observed - parts.keep
                spent.append(parts)
                now += timedelta(seconds=fleet.SECONDS)
                async with session.post(f"{base}/advance") as response:
                    await response.read()
    finally:
        await source.close()
    return spent


def peak_mb() -> float:
    """The most memory that this process has ever had resident, in MB (10^6 bytes)."""
    # Not getrusage's, which a process inherits from the one that started it.
    found = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    kib = int(found[0].split()[1])
    return kib * 1024 / 1e6


@contextmanager
def serving(envoys: int) -> Iterator[str]:
    """A fleet in a process of its own; its base address."""
    command = [sys.executable, "-m", "bench.fleet", str(envoys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def run_fresh(envoys: int, ticks: int = TICKS) -> dict[str, Any]:
    """Ticks of a fresh controller over a fleet: ``peak_mb``, and CPU seconds by part of each tick."""
    with serving(envoys) as base:
        command = [sys.executable, "-m", "bench.evidence", base, str(envoys), str(ticks)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the controller that was measured ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(envoys: int, measured: dict[str, Any]) -> dict[str, Any]:
    """The figures of one size: medians of the ticks after the first, in CPU seconds."""
    first, *later = measured["ticks"]

    def middle(part: str) -> float:
        return round(float(median(tick[part] for tick in later)), 4)

    return {
        "name": f"{envoys} Envoy" + ("s" if envoys > 1 else ""),
        "envoys": envoys,
        "cpu_s": middle("total"),
        **{f"{part}_s": middle(part) for part in ("ask", "parse", "collect", "keep")},
        "cpu_ms_per_envoy": round(1000 * middle("total") / envoys, 2),
        "first_cpu_s": round(first["total"], 3),
        "peak_mb": round(measured["peak_mb"], 1),
        "answer_kb": measured["answer_kb"],
        "cpu_s_ticks": [round(tick["total"], 4) for tick in later],
    }


def measure(tell: Callable[[str], None], sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """One row for each size.

    Raises:
        RuntimeError: a tick did not do all of its work.
    """
    rows = []
    for envoys in sizes:
        tell(f"evidence: {envoys} Envoys, {EXPERIMENTS} experiments")
        rows.append(row(envoys, run_fresh(envoys)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.evidence")
    parser.add_argument("base")
    parser.add_argument("envoys", type=int)
    parser.add_argument("ticks", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="abmesh-evidence-") as folder:
        spent = asyncio.run(tick_repeatedly(given.base, given.envoys, Path(folder), given.ticks))
    kb = round(len(fleet.answer(fleet.recorded(), 0, given.ticks - 1)) / 1e3)
    print(json.dumps({"ticks": [vars(tick) for tick in spent], "peak_mb": peak_mb(), "answer_kb": kb}))


if __name__ == "__main__":
    main()
