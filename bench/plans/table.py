"""The tables of :mod:`bench.plans` in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from abmesh.analysis.rollout_plan import shown
from bench.plans.compared import agrees

Results = Mapping[str, Any]


def shipped_lines(results: Results) -> list[str]:
    """The README's table: what the shipped document does with each candidate, and when."""
    runs = results["shipped_runs"]
    lines = [
        "| candidate | promoted | rolled back | after (half, 90%) | undecided in 2 d |",
        "| --- | --: | --: | --: | --: |",
    ]
    for row in results["shipped"]:
        shares = {name: row["outcomes"].get(name) for name in ("promoted", "rolled back", "stuck")}
        usual = max(("promoted", "rolled back"), key=lambda name: (shares[name] or {"runs": 0})["runs"])
        cells = [_share(shares[name]) for name in shares]
        lines.append(f"| {row['candidate']} | {cells[0]} | {cells[1]} | {_times(shares[usual])} | {cells[2]} |")
    return [
        *lines,
        "",
        f"{runs} simulated rollouts each, with the function that decides in production, at 10 requests/s from 50,000 "
        f"users who return, a few of whom send most. Shares are known to within {100 * _most_error(results):.0f} "
        f"points (one standard error); times are of the more frequent ending. With less traffic everything but the "
        f"minimum times takes longer in proportion: `abmesh plan chat-model --traffic 2/s` says how long. `make plans` "
        f"repeats this table.",
    ]


def compared_lines(results: Results) -> list[str]:
    """The table in docs/statistics.md: plan beside rollouts."""
    lines = [
        "Five documents, planned by the command and then rolled out by other simulations, with other users and looks "
        f"at a fixed pace, {results['compared_runs']} rollouts each; a time is the median of those that ended so.",
        "",
        "| document | candidate | ends | planned | found | planned after | found after | |",
        "| --- | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for row in results["compared"]:
        mark = "" if agrees(row) else "differs"
        lines.append(
            f"| {row['document']} | {row['candidate']} | {row['outcome']} | {row['planned_share']:.1%} | "
            f"{row['share']:.1%} | {_minutes(row['planned_minutes'])} | {_minutes(row['minutes'])} | {mark} |"
        )
    goals = [row for row in results["compared"] if row["planned_goal_power"] is not None]
    lines += [""] if goals else []
    lines += [
        f"The goal's own test, simulated without a rollout, gave {row['document']} a power of "
        f"{row['planned_goal_power']:.1%}; {row['share']:.1%} of the rollouts found it."
        for row in goals
    ]
    return lines


def _share(of: Mapping[str, Any] | None) -> str:
    return "0%" if of is None else f"{of['share']:.0%}"


def _times(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return "-"
    return ", ".join(shown(timedelta(seconds=of["seconds"][at]["value"])) for at in ("0.5", "0.9"))


def _minutes(minutes: float | None) -> str:
    return "-" if minutes is None else shown(timedelta(minutes=minutes))


def _most_error(results: Results) -> float:
    errors: Sequence[float] = [share["error"] for row in results["shipped"] for share in row["outcomes"].values()]
    return max(errors)
