"""``python -m bench.rollouts``, which ``make rollouts`` runs: whole rollouts through a real Envoy, 40 of them A/A.

Prints the table, writes ``bench/rollouts.json`` and the table in docs/statistics.md. Exit codes: 0 every rate is what
was asked for and every decision recomputes, 1 not so, 2 usage.
"""

from __future__ import annotations

import os

# numpy reads it when it is first imported, here and in the programs that are started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.rollouts.batch import Batch, BatchError, run
from bench.rollouts.plans import AS_FAST, DOUBLED, FEW, OPEN, SAME, SLOWER
from bench.rollouts.table import document, outcomes, table
from bench.rollouts.worlds import WORLDS
from bench.simulations.__main__ import replaced

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "rollouts.json"
DOCUMENT: Final = ROOT / "docs" / "statistics.md"
BEGIN: Final = "<!-- rollouts -->"
END: Final = "<!-- /rollouts -->"

BATCH: Final = (SAME, SAME, SAME, SAME, DOUBLED, DOUBLED, SLOWER, AS_FAST, FEW, OPEN)
"""As many as this: more at once, and a small machine's own delays would hide the models'."""

_AT_LEAST: Final = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Roll out; returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.batches + given.worlds == 0:
        _parser().error("no batch to run: --batches 0 and --worlds 0")
    batches, failed = [], []
    with tempfile.TemporaryDirectory(prefix="abmesh-rollouts-") as folder:
        kinds = [(BATCH, _AT_LEAST)] * given.batches + [(WORLDS, 0.0)] * given.worlds
        for number, (plans, at_least) in enumerate(kinds):
            try:
                batch = asyncio.run(run(plans, Path(folder) / str(number), given.seed + number, at_least=at_least))
            except BatchError as error:
                print(f"batch {number + 1}: {error}", file=sys.stderr)
                return 1
            batches.append(batch)
            failed += [f"batch {number + 1}: {problem}" for problem in _problems(batch)]
            print(
                f"batch {number + 1} of {len(kinds)}: {batch.requests} requests in {batch.seconds:.0f} s; "
                f"{', '.join(f'{rollout.name} {rollout.phase}' for rollout in batch.rollouts)}",
                file=sys.stderr,
            )
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    lines = table(batches, when=when)
    print("\n".join(lines))
    (given.output or RESULTS).write_text(document(batches, given.seed, when=when), encoding="utf-8")
    if given.output is None and DOCUMENT.exists():
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), lines, BEGIN, END), encoding="utf-8")
    rollouts = [rollout for batch in batches for rollout in batch.rollouts]
    failed += [
        f"not what was asked for: {found.check}: {found.rule}, {found.truth}"
        for found, _ in outcomes(rollouts)
        if not found.kept
    ]
    for problem in failed:
        print(problem, file=sys.stderr)
    return 1 if failed else 0


def _problems(batch: Batch) -> list[str]:
    """What is wrong beside rates: decisions that do not recompute, requests that reached no variant."""
    replay = [sys.executable, "-m", "abmesh.cli", "replay", str(batch.state / "journal.jsonl")]
    done = subprocess.run(replay, capture_output=True, text=True, check=False)
    found = [] if done.returncode == 0 else [f"abmesh replay: {done.stdout}{done.stderr}"]
    return found + ([f"{batch.unassigned} requests reached no variant"] if batch.unassigned else [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.rollouts", description="Whole rollouts through a real Envoy.")
    parser.add_argument("--batches", type=_count, default=10, help="of four A/A rollouts and six others each [10]")
    parser.add_argument("--worlds", type=_count, default=8, help="batches of the worlds that once misled the rules [8]")
    parser.add_argument("--seed", type=int, default=2026, help="of users and salts; timing is the machine's [2026]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON [bench/rollouts.json and docs/statistics.md]")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{number} batches; from 0 to 1000 are possible")
    return number


if __name__ == "__main__":
    sys.exit(main())
