"""``python -m bench``, which ``make bench`` runs: every measurement, its tables, and ``bench/results.json``.

See docs/benchmarks.md. Exit codes: 0 done, 1 a stream failed or something did not happen, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from abmesh.experiment.errors import AbmeshError
from bench import aims, documentation, placement, report
from bench.contenders import CONTENDERS
from bench.parts import FULL, PARTS, QUICK, Plan, measure
from bench.probe import ProbeError
from bench.summary import problems

RESULTS: Final = Path(__file__).with_name("results.json")
_MOST_REQUESTS: Final = 100_000
_MOST_ROUNDS: Final = 50
_WIDTH: Final = 176


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description="Measure abmesh on this machine's loopback.")
    parser.add_argument("--rounds", type=_whole(_MOST_ROUNDS), help=f"rounds of every data path [{FULL.rounds}]")
    parser.add_argument("--requests", type=_whole(_MOST_REQUESTS), help=f"requests in one round [{FULL.requests}]")
    parser.add_argument("--quick", action="store_true", help="a look in a few minutes; too short for good figures")
    parser.add_argument("--only", choices=PARTS, help="leave the other parts out")
    parser.add_argument(
        "--contenders",
        type=_names,
        default=(),
        metavar="NAME,NAME",
        help="measure only these data paths, and the reference",
    )
    parser.add_argument("--no-pin", action="store_true", help="let the system place processes on CPUs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: bench/results.json, and after a whole run the figures in README.md and docs as well",
    )
    return parser


def _whole(most: int) -> Any:
    def convert(text: str) -> int:
        number = int(text)
        if not 1 <= number <= most:
            raise ValueError
        return number

    convert.__name__ = f"number from 1 to {most}"  # argparse names it in its message
    return convert


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    known = [contender.name for contender in CONTENDERS]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; allowed: {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    errors = Console(stderr=True, soft_wrap=True)
    plan = (QUICK if given.quick else FULL).of(given.rounds, given.requests)
    where = placement.Placement() if given.no_pin else placement.of_this_machine()
    machine = report.machine()
    started = time.monotonic()
    if busy := report.busy(machine):
        errors.print(f"bench: {busy}", style="yellow", markup=False)

    def tell(text: str) -> None:
        console.print(text, style="dim", markup=False, highlight=False)

    try:
        measured = asyncio.run(measure(plan, given.only, given.contenders, where, tell))
    except (AbmeshError, ProbeError, TimeoutError, OSError) as error:
        errors.print(f"bench: {error or type(error).__name__}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 1
    report.show(console, measured)
    output = given.output or RESULTS
    report.write(output, measured, machine, command_of(given, plan), str(where))
    if given.output is None and given.only is None and not given.contenders:
        documentation.update()
    console.print(f"{time.monotonic() - started:.0f} s; written to {os.path.relpath(output)}", markup=False)
    for row in measured.skipped:
        errors.print(f"bench: SKIPPED {row['name']}: {row['reason']}", style="yellow", markup=False)
    for row in aims.missed(measured.ratios):
        line = f"{row['figure']} of {row['of']} to {row['to']}: {row['ratio']:g}, aim {row['aim']}"
        errors.print(f"bench: aim missed: {line}", style="yellow", markup=False)
    failed = [
        f"{part}: {line}"
        for part, rows in (("full load", measured.rows), ("half load", measured.half_load), ("growth", measured.growth))
        for line in problems(rows)
    ]
    for line in failed:
        errors.print(f"bench: {line}", style="red", markup=False)
    return 1 if failed else 0


def command_of(given: argparse.Namespace, plan: Plan) -> str:
    """The command that repeats a run, with every number that it depends on."""
    words = ["python -m bench", "--quick" if given.quick else ""]
    words += [f"--rounds {plan.rounds}", f"--requests {plan.requests}", f"--only {given.only}" if given.only else ""]
    words += [f"--contenders {','.join(given.contenders)}" if given.contenders else ""]
    words += ["--no-pin" if given.no_pin else ""]
    return " ".join(filter(None, words))


if __name__ == "__main__":
    raise SystemExit(main())
