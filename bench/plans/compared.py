"""Five documents, planned by ``abmesh plan`` and then rolled out in the worlds, whose users are drawn anew.

The plan is made by the command, as an operator would; the rollouts are played as those of :mod:`bench.worlds`, which
look at a fixed pace and not, as the plan does, at growing distances.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from abmesh.analysis.playable import playable
from abmesh.analysis.rollout_plan import Quantile
from abmesh.analysis.truth import Quantity, Truth
from abmesh.experiment.codec import parse
from bench.worlds.documents import SHIPPED
from bench.worlds.playing import played
from bench.worlds.world import World

NAME: Final = "chat-model"
TIME_WITHIN: Final = 0.15
POWER_WITHIN: Final = 0.03
_MINUTE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate of a document.

    Attributes:
        name: what it is like, as the table has it.
        candidate: its place among those that the plan prints.
        truth: the same for the worlds.
        outcome: what is to be expected of it, as the plan names it.
    """

    name: str
    candidate: int
    truth: Truth
    outcome: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A document, and what is asked of it.

    Attributes:
        name: for the table.
        text: the document.
        options: of ``abmesh plan``.
        cases: the candidates.
        tick: time between two looks of the worlds.
        longest: time after which a rollout is stuck.
    """

    name: str
    text: str
    options: tuple[str, ...]
    cases: tuple[Case, ...]
    tick: timedelta
    longest: timedelta


_HEAD: Final = """\
version: 1
experiments:
  - name: chat-model
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 100, control: true}
      - {name: model-b, cluster: b, weight: 0}
    events: [click]
    rollout:
      candidate: model-b
"""

_MANY: Final = Truth(users=50_000, requests_per_second=10.0, error_rate=0.005)
_FAST: Final = Truth(users=20_000, requests_per_second=20.0)
_SLOW: Final = Truth(users=5_000, requests_per_second=2.0)
_CACHED: Final = Truth(users=50_000, requests_per_second=50.0, quantities=(Quantity("cache_rate", 0.5),))
_CLICKED: Final = Truth(users=50_000, requests_per_second=20.0, quantities=(Quantity("click_rate", 0.05),))


def documents() -> tuple[Planned, ...]:
    """The five."""
    return (
        Planned(
            "the shipped document",
            SHIPPED.read_text(encoding="utf-8"),
            ("--traffic", "10/s", "--users", "50000", "--error-rate", "0.5%", "--effect", "error_rate=x2"),
            (
                Case("no difference", 0, _MANY, "promoted"),
                Case("errors doubled, 0.5% to 1%", 1, replace(_MANY, error_factor=2.0), "rolled back"),
            ),
            timedelta(minutes=5),
            timedelta(days=1),
        ),
        Planned(
            "p95 +20%, harm: any, stages of 15m",
            f"{_HEAD}      steps: [5, 20, 50, 100]\n      stage: {{min_duration: 15m, min_requests: 500}}\n"
            "      guardrails: [{metric: latency_p95, max_increase: 20%, relative: true, harm: any}]\n",
            ("--traffic", "20/s", "--users", "20000", "--effect", "latency_p95=+15%"),
            (
                Case("no difference", 0, _FAST, "promoted"),
                Case("p95 15% higher", 1, replace(_FAST, latency_factor=1.15), "rolled back"),
            ),
            timedelta(seconds=20),
            timedelta(hours=12),
        ),
        Planned(
            "errors at most 3%, 2 requests/s",
            f"{_HEAD}      steps: [10, 50, 100]\n      stage: {{min_duration: 30m, min_requests: 200}}\n"
            "      guardrails: [{metric: error_rate, max: 3%}]\n",
            ("--traffic", "2/s", "--error-rate", "1%", "--effect", "error_rate=+4%"),
            (
                Case("no difference", 0, _SLOW, "promoted"),
                Case("errors 1% to 5%", 1, replace(_SLOW, error_factor=5.0), "rolled back"),
            ),
            timedelta(minutes=1),
            timedelta(days=1),
        ),
        Planned(
            "goal cache_rate, 30,000 requests",
            f"{_HEAD}      mode: experiment\n      steps: [50]\n      stage: {{min_duration: 5m, min_requests: 500}}\n"
            "      goal: {metric: cache_rate, increase: true, min_effect: 2%, planned_requests: 30000}\n",
            ("--traffic", "50/s", "--users", "50000", "--baseline", "cache_rate=50%"),
            (Case("50% to 52%", 1, _better(_CACHED, 1.04), "winner"),),
            timedelta(seconds=20),
            timedelta(hours=6),
        ),
        Planned(
            "goal click_rate, 15,000 requests",
            f"{_HEAD}      mode: experiment\n      steps: [50]\n      stage: {{min_duration: 5m, min_requests: 500}}\n"
            "      goal: {metric: click_rate, min_effect: 1%, planned_requests: 15000}\n",
            ("--traffic", "20/s", "--users", "50000", "--baseline", "click_rate=5%"),
            (Case("5% to 6%", 1, _better(_CLICKED, 1.2), "winner"),),
            timedelta(seconds=20),
            timedelta(hours=6),
        ),
    )


def _better(truth: Truth, factor: float) -> Truth:
    return replace(truth, quantities=tuple(replace(item, factor=factor) for item in truth.quantities))


def compare(given: Planned, runs: int, seed: int, processes: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """What the plan says of a document's candidates, and what rollouts in the worlds do."""
    tell(f"{given.name}: planning")
    plan = _plan(given, runs, seed, processes)
    found = []
    for case in given.cases:
        tell(f"{given.name}, {case.name}: rolling out")
        subject = playable(parse(given.text, "document").experiments[0], case.truth).experiment
        world = World(
            name=f"plan-{case.name}",
            truth="",
            rules="",
            document=subject,
            truths=(case.truth,),
            asked=(),
            longest=given.longest,
            tick=given.tick,
        )
        # Spawned, because threads of libraries do not survive a fork.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            seen = list(pool.map(partial(played, world, seed=seed), range(runs), chunksize=4))
        ended = [each.minutes for each in seen if _outcome(each.ending, each.cause) == case.outcome]
        says = plan["candidates"][case.candidate]["outcomes"].get(case.outcome)
        middle = None if says is None else says["seconds"]["0.5"]
        half = Quantile.of(sorted(timedelta(minutes=each) for each in ended), 0.5) if ended else None
        found.append(
            {
                "document": given.name,
                "candidate": case.name,
                "outcome": case.outcome,
                "runs": runs,
                "planned_share": 0.0 if says is None else says["share"],
                "share": len(ended) / runs,
                "planned_minutes": None if middle is None else middle["value"] / 60,
                "planned_error": None if middle is None else (middle["high"] - middle["low"]) / 120,
                "minutes": None if half is None else half.after / _MINUTE,
                "error": None if half is None else (half.high - half.low) / _MINUTE / 2,
                "planned_goal_power": None if plan["goal"] is None else plan["goal"]["power_at_planned"],
            }
        )
    return found


def _plan(given: Planned, runs: int, seed: int, processes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "experiments.yaml"
        config.write_text(given.text, encoding="utf-8")
        longest = f"{round(given.longest.total_seconds())}s"
        command = [sys.executable, "-m", "abmesh.cli", "plan", NAME, "--config", str(config), *given.options]
        command += ["--runs", str(runs), "--seed", str(seed), "--processes", str(processes), "--within", "30d"]
        done = subprocess.run([*command, "--longest", longest, "--json"], check=True, capture_output=True, text=True)
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def _outcome(ending: str, cause: str) -> str:
    """An ending as the plan names it."""
    if ending == "concluded":
        return cause.replace("_", " ")
    return "stuck" if ending == "undecided" else ending.replace("_", " ")


def agrees(row: dict[str, Any]) -> bool:
    """Whether the plan was right: in power and in time, but for two Monte-Carlo errors of the difference."""
    planned, found = float(row["planned_share"]), float(row["share"])
    p = (planned + found) / 2
    close = abs(planned - found) <= POWER_WITHIN + 2 * math.sqrt(2 * p * (1 - p) / row["runs"])
    if row["minutes"] is None or row["planned_minutes"] is None:
        return close and row["minutes"] is row["planned_minutes"]
    late = abs(float(row["planned_minutes"]) - float(row["minutes"]))
    error = math.hypot(row["planned_error"], row["error"])
    return close and late <= TIME_WITHIN * float(row["minutes"]) + 2 * error
