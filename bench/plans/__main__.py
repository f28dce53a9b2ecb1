"""``python -m bench.plans``, which ``make plans`` runs: what is caught, and whether plans are right.

Writes ``bench/plans.json``, the table in the README and that in docs/statistics.md. Exit codes: 0 every plan agrees
with the rollouts, 1 one does not, 2 usage.
"""

from __future__ import annotations

import os

# numpy reads it when it is first imported, here and in the processes that are started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench.plans.compared import agrees, compare, documents
from bench.plans.shipped import play_shipped, rollout, rows
from bench.plans.table import compared_lines, shipped_lines
from bench.simulations.__main__ import replaced

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "plans.json"
README: Final = ROOT / "README.md"
STATISTICS: Final = ROOT / "docs" / "statistics.md"
SHIPPED: Final = ("<!-- shipped: written by python -m bench.plans -->", "<!-- /shipped -->")
COMPARED: Final = ("<!-- plans: written by python -m bench.plans -->", "<!-- /plans -->")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.tables:
        update()
        return 0
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    if given.only != "compared":
        outlooks = play_shipped(given.runs or 100, given.seed, given.processes, timedelta(minutes=given.within))
        results |= {"shipped": rows(outlooks), "shipped_runs": outlooks[0].runs, "shipped_rollout": rollout()}
        results |= {"shipped_seed": given.seed, "shipped_on": when}
    if given.only != "shipped":
        runs = given.runs or 200
        found = [row for each in documents() for row in compare(each, runs, given.seed, given.processes, _to_stderr)]
        results |= {"compared": found, "compared_runs": runs, "compared_seed": given.seed, "compared_on": when}
    (given.output or RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.output is None:
        update()
    wrong = [row for row in results.get("compared", ()) if not agrees(row)]
    for row in wrong:
        print(f"the plan differs from the rollouts: {row['document']}, {row['candidate']}", file=sys.stderr)
    return 1 if wrong else 0


def update(results: Path = RESULTS, readme: Path = README, statistics: Path = STATISTICS) -> None:
    """Write the tables into both pages."""
    found = json.loads(results.read_text(encoding="utf-8"))
    for page, key, lines, markers in (
        (readme, "shipped", shipped_lines, SHIPPED),
        (statistics, "compared", compared_lines, COMPARED),
    ):
        if key in found:
            text = page.read_text(encoding="utf-8")
            page.write_text(replaced(text, ["", *lines(found), ""], *markers), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.plans", description="Plans, and the rollouts that follow.")
    parser.add_argument("--only", choices=("shipped", "compared"), help="one of the two tables")
    parser.add_argument("--tables", action="store_true", help="only write the tables of bench/plans.json anew")
    parser.add_argument("--runs", type=_count, help="rollouts of each candidate [100, 200 for plans]")
    parser.add_argument("--within", type=_count, default=600, help="minutes after which no rollout begins [600]")
    parser.add_argument("--seed", type=int, default=2026, help="of all random numbers [2026]")
    parser.add_argument("--processes", type=_count, default=os.cpu_count() or 1, help="at a time [one per CPU]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON [bench/plans.json, and both pages]")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{number}; from 1 to 100000 are possible")
    return number


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
