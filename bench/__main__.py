"""``python -m bench``, which ``make bench`` runs: every measurement, its tables, and ``bench/results.json``.

See docs/benchmarks.md. Exit codes: 0 done, 1 a stream failed or something did not happen, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench import evidence, reactions, report, rollback, streams, throughput
from bench.probe import ProbeError
from bench.summary import problems, reaction
from experiment.errors import AbmeshError

RESULTS: Final = Path(__file__).with_name("results.json")
_MOST_REQUESTS: Final = 100_000
_MOST_ROUNDS: Final = 50
_WIDTH: Final = 144


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of every data path.
        requests: of one round of one data path.
        times: how often each reaction is measured.
        rollbacks: how often the rollback is, each in a rollout of its own.
        fleets: numbers of Envoys that a controller's tick is measured over.
    """

    rounds: int
    requests: int
    times: int
    rollbacks: int
    fleets: tuple[int, ...] = evidence.SIZES


FULL: Final = Plan(rounds=5, requests=6000, times=5, rollbacks=3)
QUICK: Final = Plan(rounds=2, requests=1000, times=1, rollbacks=1, fleets=(1, 50))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description="Measure abmesh on this machine's loopback.")
    parser.add_argument("--rounds", type=_whole(_MOST_ROUNDS), help=f"rounds of every data path [{FULL.rounds}]")
    parser.add_argument("--requests", type=_whole(_MOST_REQUESTS), help=f"requests in one round [{FULL.requests}]")
    parser.add_argument("--quick", action="store_true", help="a look in under a minute; too short for good figures")
    parser.add_argument(
        "--only", choices=("throughput", "streams", "reactions", "evidence"), help="leave the other parts out"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE", help="default: bench/results.json")
    return parser


def _whole(most: int) -> Any:
    def convert(text: str) -> int:
        number = int(text)
        if not 1 <= number <= most:
            raise ValueError
        return number

    convert.__name__ = f"number from 1 to {most}"  # argparse names it in its message
    return convert


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    errors = Console(stderr=True, soft_wrap=True)
    plan = QUICK if given.quick else FULL
    plan = Plan(given.rounds or plan.rounds, given.requests or plan.requests, plan.times, plan.rollbacks, plan.fleets)
    command = command_of(given, plan)
    machine = report.machine()
    started = time.monotonic()
    try:
        measured = asyncio.run(_measure(plan, given.only, console))
    except (AbmeshError, ProbeError, TimeoutError, OSError) as error:
        errors.print(f"bench: {error or type(error).__name__}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 1
    report.show(console, measured)
    report.write(given.output, measured, machine, command)
    console.print(f"{time.monotonic() - started:.0f} s; written to {os.path.relpath(given.output)}", markup=False)
    failed = problems(measured.rows)
    for line in failed:
        errors.print(f"bench: {line}", style="red", markup=False)
    return 1 if failed else 0


def command_of(given: argparse.Namespace, plan: Plan) -> str:
    """The command that repeats a run, with every number that it depends on."""
    words = ["python -m bench", "--quick" if given.quick else ""]
    words += [f"--rounds {plan.rounds}", f"--requests {plan.requests}", f"--only {given.only}" if given.only else ""]
    return " ".join(filter(None, words))


Rows = list[dict[str, Any]]


async def _measure(plan: Plan, only: str | None, console: Console) -> report.Measured:
    def tell(text: str) -> None:
        console.print(text, style="dim", markup=False, highlight=False)

    rows: Rows = []
    reacted: Rows = []
    ticks: Rows = []
    streamed: Rows = []
    # A short name: the path of a Unix socket has at most some ninety characters.
    with tempfile.TemporaryDirectory(prefix="abmesh-bench-") as name:
        folder = Path(name)
        if only in (None, "throughput"):
            rows = await throughput.measure(folder, plan.rounds, plan.requests, tell)
        if only in (None, "streams"):
            streamed = await streams.measure(folder, plan.rounds, tell)
        if only in (None, "reactions"):
            measured = await reactions.measure(folder / "reactions", plan.times, tell)
            measured += await rollback.measure(folder / "rollback", plan.rollbacks, tell)
            reacted = [reaction(one) for one in measured]
        if only in (None, "evidence"):
            ticks = await asyncio.to_thread(evidence.measure, tell, plan.fleets)
    return report.Measured(rows, reacted, ticks, streamed)


if __name__ == "__main__":
    raise SystemExit(main())
