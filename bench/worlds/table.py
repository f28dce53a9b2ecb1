"""What many rollouts in worlds came to: rates, and the table of docs/statistics.md. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, Final

from bench.simulations.outcome import Outcome
from bench.worlds.world import Seen
from bench.worlds.worlds import worlds

_NAMES: Final = tuple(field.name for field in fields(Outcome))


@dataclass(frozen=True, slots=True)
class Row:
    """One question's answer.

    Attributes:
        world: its name.
        outcome: the rate, and what was asked for.
        minutes: median of the world time of the rollouts where it happened; None where it never did.
    """

    world: str
    outcome: Outcome
    minutes: float | None


def rows(found: Mapping[str, Sequence[Seen]]) -> list[Row]:
    """The rows of the worlds that were played, in the order of all worlds."""
    made = []
    for world in worlds():
        seen = found.get(world.name)
        for asked in world.asked if seen else ():
            assert seen
            hits = [item.minutes for item in seen if asked.happened(item)]
            outcome = Outcome(world.rules, asked.rule, world.truth, len(seen), len(hits), asked.allowed, asked.wanted)
            made.append(Row(world.name, outcome, median(hits) if hits else None))
    return made


def table(made: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        *_together(made),
        "A rate may miss what is asked for by three Monte-Carlo errors; a limit of 0 or 1 may not be missed.",
        "",
        "| truth | guardrails or goal | happened | runs | found | asked for | after (median) |",
        "| --- | --- | --- | ---: | ---: | --- | ---: |",
    ]
    for row in made:
        outcome = row.outcome
        asked = "" if outcome.allowed is None else f"at most {outcome.allowed:.3g}"
        asked = asked if outcome.wanted is None else f"at least {outcome.wanted:.3g}"
        mark = "" if outcome.kept else " (missed)"
        after = "" if row.minutes is None else f"{row.minutes:.0f} min"
        lines.append(
            f"| {outcome.truth} | {outcome.check} | {outcome.rule} | {outcome.runs} | {outcome.rate:.3f} "
            f"| {asked}{mark} | {after} |"
        )
    return lines


def _together(made: Sequence[Row]) -> list[str]:
    """False alarms of all worlds in which they would be false."""
    found = []
    for rule, words in (
        ("rolled back", "that do no harm were rolled back"),
        ("sample-ratio alarm", "had a false sample-ratio alarm"),
    ):
        mine = [row.outcome for row in made if row.outcome.rule == rule and row.outcome.allowed is not None]
        if mine:
            found.append(f"{sum(item.found for item in mine)} of {sum(item.runs for item in mine)} rollouts {words}.")
    return [" ".join(found)] if found else []


def document(made: Sequence[Row], found: Mapping[str, Sequence[Seen]], seed: int, *, when: str = "") -> str:
    """Rows and rollouts as JSON."""
    listed = [
        {"world": row.world}
        | asdict(row.outcome)
        | {"rate": round(row.outcome.rate, 4), "kept": row.outcome.kept, "minutes": row.minutes}
        for row in made
    ]
    runs: dict[str, list[Any]] = {name: [asdict(item) for item in seen] for name, seen in found.items()}
    return json.dumps({"when": when, "seed": seed, "rows": listed, "rollouts": runs}, indent=1) + "\n"


def restored(text: str) -> tuple[dict[str, list[Seen]], int]:
    """The rollouts and the seed of a document; worlds that no longer exist are left out."""
    old = json.loads(text)
    known = {item.name for item in worlds()}
    found = {
        name: [Seen(**{**item, "found": tuple(item["found"])}) for item in seen]
        for name, seen in old["rollouts"].items()
        if name in known
    }
    return found, int(old["seed"])
