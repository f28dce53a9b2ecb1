"""``python -m bench.simulations``, which ``make simulations`` runs: how often the controller's statistics are wrong.

Prints the table, writes ``bench/simulations.json`` and the table in docs/statistics.md. Exit codes: 0 every rate is
what was asked for, 1 one is not, 2 usage.
"""

from __future__ import annotations

import os

# numpy reads it when it is first imported, here and in the processes that are started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from bench.simulations.families import FAMILIES, run
from bench.simulations.outcome import Outcome

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench" / "simulations.json"
DOCUMENT: Final = ROOT / "docs" / "statistics.md"
BEGIN: Final = "<!-- simulations -->"
END: Final = "<!-- /simulations -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate; returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.update and given.only is None:
        _parser().error("--update goes with --only; without it everything is simulated and written anew")
    found = run(FAMILIES if given.only is None else (given.only,), given.runs, given.seed)
    if given.update:
        found = updated(RESULTS.read_text(encoding="utf-8"), found, given.runs, given.seed)
    lines = table(rows(found), given.runs)
    print("\n".join(lines))
    whole = given.only is None or given.update
    output = given.output or (RESULTS if whole else None)
    if output is not None:
        output.write_text(document(found, given.runs, given.seed), encoding="utf-8")
    if whole and given.output is None and DOCUMENT.exists():
        old = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(replaced(old, lines), encoding="utf-8")
    missed = [outcome for outcome in rows(found) if not outcome.kept]
    for outcome in missed:
        print(f"not what was asked for: {outcome.check}: {outcome.rule}, {outcome.truth}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.simulations", description="Simulate experiments by the thousand.")
    parser.add_argument("--runs", type=_runs, default=2_000, help="simulated experiments per row [2000]")
    parser.add_argument("--seed", type=int, default=2026, help="of all random numbers [2026]")
    parser.add_argument("--only", choices=FAMILIES, help="one family; writes no file unless --output names one")
    parser.add_argument(
        "--update", action="store_true", help="put that family's rows into both files, leave the others"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON [bench/simulations.json and docs/statistics.md]"
    )
    return parser


def _runs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{number} runs; from 1 to 1000000 are possible")
    return number


def table(found: Sequence[Outcome], runs: int) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        f"{runs:,} simulated experiments per row; a rate may miss what is asked for by three Monte-Carlo errors.",
        "",
        "| simulated | rule | truth | raised or found | asked for |",
        "| --- | --- | --- | ---: | --- |",
    ]
    for outcome in found:
        asked = "" if outcome.allowed is None else f"at most {outcome.allowed:.3g}"
        asked = asked if outcome.wanted is None else f"at least {outcome.wanted:.3g}"
        mark = "" if outcome.kept else " (missed)"
        lines.append(f"| {outcome.check} | {outcome.rule} | {outcome.truth} | {outcome.rate:.4f} | {asked}{mark} |")
    return lines


def rows(found: Mapping[str, Sequence[Outcome]]) -> list[Outcome]:
    """Every family's outcomes, one after the other."""
    return [outcome for outcomes in found.values() for outcome in outcomes]


def document(found: Mapping[str, Sequence[Outcome]], runs: int, seed: int) -> str:
    """The outcomes as JSON."""
    listed = [
        {"family": family}
        | asdict(outcome)
        | {"rate": outcome.rate, "error": round(outcome.error, 6), "kept": outcome.kept}
        for family, outcomes in found.items()
        for outcome in outcomes
    ]
    return json.dumps({"runs": runs, "seed": seed, "outcomes": listed}, indent=1) + "\n"


def updated(text: str, found: Mapping[str, list[Outcome]], runs: int, seed: int) -> dict[str, list[Outcome]]:
    """What an older document says of the other families, and what was found now.

    Raises:
        SystemExit: the older one has other runs or another seed, and one table can only state one number.
    """
    old = json.loads(text)
    if (old["runs"], old["seed"]) != (runs, seed):
        raise SystemExit(f"--update needs the runs and the seed of the file: --runs {old['runs']} --seed {old['seed']}")
    kept: dict[str, list[Outcome]] = {name: [] for name in FAMILIES}
    names = [field.name for field in fields(Outcome)]
    for row in old["outcomes"]:
        kept[row["family"]].append(Outcome(**{name: row[name] for name in names}))
    return kept | dict(found)


def replaced(text: str, lines: Sequence[str], begin: str = BEGIN, end: str = END) -> str:
    """A document with the lines between its two markers; unchanged if it has none."""
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    return "\n".join([before + begin, *lines, end + after]) if found and ended else text


if __name__ == "__main__":
    sys.exit(main())
