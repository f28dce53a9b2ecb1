"""``python -m bench.worlds``, which ``make worlds`` runs: whole rollouts in worlds that once misled the rules.

Prints the table, writes ``bench/worlds.json`` and the table in docs/statistics.md. Exit codes: 0 every rate is what was
asked for, 1 one is not, 2 usage.
"""

from __future__ import annotations

import os

# numpy reads it when it is first imported, here and in the processes that are started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.simulations.__main__ import replaced
from bench.worlds.playing import play_all, to_stderr
from bench.worlds.table import document, restored, rows, table
from bench.worlds.worlds import worlds

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "worlds.json"
DOCUMENT: Final = ROOT / "docs" / "statistics.md"
BEGIN: Final = "<!-- worlds -->"
END: Final = "<!-- /worlds -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    names = [item.name for item in worlds()]
    chosen = names if given.only is None else [name for name in names if any(part in name for part in given.only)]
    if not chosen:
        parser.error(f"--only {' '.join(given.only)}: no world is named so; there are {', '.join(names)}")
    if given.update and given.only is None:
        parser.error("--update goes with --only; without it every world is played and written anew")
    found = dict(play_all(chosen, given.runs, given.seed, given.processes, to_stderr))
    made = rows(found)
    print("\n".join(table(made)))
    whole = given.only is None or given.update
    if given.update:
        old, seed = restored(RESULTS.read_text(encoding="utf-8"))
        if seed != given.seed:
            raise SystemExit(f"--update needs the seed of the file: --seed {seed}")
        found = {name: found.get(name) or old[name] for name in names if name in found or name in old}
    output = given.output or (RESULTS if whole else None)
    if output is not None:
        when = f"{datetime.now(UTC):%Y-%m-%d}"
        output.write_text(document(rows(found), found, given.seed, when=when), encoding="utf-8")
    if whole and given.output is None and DOCUMENT.exists():
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replaced(text, table(rows(found)), BEGIN, END), encoding="utf-8")
    missed = [row for row in made if not row.outcome.kept]
    for row in missed:
        print(f"not what was asked for: {row.world}: {row.outcome.rule}, {row.outcome.rate:.3f}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.worlds", description="Whole rollouts in described worlds.")
    parser.add_argument("--runs", type=_count, help="rollouts a world [as many as each says: 40, or 100]")
    parser.add_argument("--seed", type=int, default=2026, help="of all random numbers [2026]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="worlds whose name contains one of these")
    parser.add_argument("--update", action="store_true", help="put their rows into both files, leave the others")
    parser.add_argument("--processes", type=_count, default=os.cpu_count() or 1, help="at a time [one per CPU]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON [bench/worlds.json and docs/statistics.md]")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError(f"{number}; from 1 to 100000 are possible")
    return number


if __name__ == "__main__":
    sys.exit(main())
