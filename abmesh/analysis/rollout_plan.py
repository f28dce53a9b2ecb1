"""What many simulated rollouts say about a plan: how often it ends in which way, and when. Pure.

Called by :mod:`abmesh.cli.plan_rollout`. Every figure carries its Monte-Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from abmesh.analysis.layout import table
from abmesh.analysis.scenarios import Kind, Scenario
from abmesh.analysis.simulation import Ending, Played, Ticks
from abmesh.experiment.quantities import format_duration
from abmesh.experiment.rollout import Stage

QUANTILES: Final = (0.1, 0.5, 0.9)

_SHORTEST = timedelta(seconds=10)
_LONGEST = timedelta(minutes=10)
_GROWTH = 0.12


def looks_of(stage: Stage) -> Ticks:
    """When a simulated stage is looked at: often at first, later every eighth of its age, and when it may end.

    A controller looks every few seconds. Fewer looks cost next to no power, and time only as far as they are late.
    """

    def step(age: timedelta) -> timedelta:
        wait = min(max(age * _GROWTH, _SHORTEST), _LONGEST)
        return min(wait, stage.min_duration - age) if age < stage.min_duration else wait

    return step


@dataclass(frozen=True, slots=True)
class Share:
    """How many of the simulated rollouts did something."""

    happened: int
    runs: int

    @property
    def rate(self) -> float:
        """0..1."""
        return self.happened / self.runs

    @property
    def error(self) -> float:
        """Monte-Carlo standard error, never 0: Agresti and Coull's, with two more of either kind."""
        n = self.runs + 4
        p = (self.happened + 2) / n
        return math.sqrt(p * (1 - p) / n)


@dataclass(frozen=True, slots=True)
class Quantile:
    """When a share of the rollouts that ended in some way had ended, and how well that is known.

    Attributes:
        at: which, 0..1.
        after: time from the start.
        low, high: between which it lies but for one Monte-Carlo standard error on either side.
    """

    at: float
    after: timedelta
    low: timedelta
    high: timedelta

    @classmethod
    def of(cls, ordered: Sequence[timedelta], at: float) -> Quantile:
        """A quantile of times that rise; the rank of a quantile of n values has the variance ``n q (1 - q)``."""
        last = len(ordered) - 1
        spread = math.sqrt(len(ordered) * at * (1 - at)) / max(len(ordered), 1)
        places = (round(last * min(max(q, 0.0), 1.0)) for q in (at, at - spread, at + spread))
        return cls(at, *(ordered[place] for place in places))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of one candidate.

    Attributes:
        scenario: the candidate.
        runs: simulated rollouts.
        outcomes: how many ended as ``promoted``, ``rolled back``, ``paused``, ``winner``, ``no difference`` or
            ``undecided``, and how many had not ended at the longest time: ``stuck``.
        times: quantiles of the time to each outcome but the last.
        requests: median of the candidate's requests.
        ends: time and outcome of each rollout.
    """

    scenario: Scenario
    runs: int
    outcomes: dict[str, Share]
    times: dict[str, tuple[Quantile, ...]]
    requests: int
    ends: tuple[tuple[timedelta, str], ...]

    @property
    def power(self) -> Share:
        """How many ended as they should: promoted, rolled back or paused or, in an experiment, decided rightly."""
        wanted = {Kind.SAME: ("promoted", "no difference", "undecided"), Kind.WORSE: ("rolled back", "paused")}
        names = wanted.get(self.scenario.kind, ("winner",))
        return Share(sum(self.outcomes[name].happened for name in names if name in self.outcomes), self.runs)

    def within(self, outcome: str, limit: timedelta) -> Share:
        """How many had ended in some way by a time."""
        return Share(sum(name == outcome and after <= limit for after, name in self.ends), self.runs)


def outlook(scenario: Scenario, plays: Sequence[Played]) -> Outlook:
    """Sum up at least one play of a candidate."""
    ends = tuple((played.after, _outcome(played)) for played in plays)
    by_name: dict[str, list[timedelta]] = {}
    for after, name in ends:
        by_name.setdefault(name, []).append(after)
    order = [name for name in _OUTCOMES if name in by_name]
    return Outlook(
        scenario=scenario,
        runs=len(plays),
        outcomes={name: Share(len(by_name[name]), len(plays)) for name in order},
        times={
            name: tuple(Quantile.of(sorted(by_name[name]), at) for at in QUANTILES) for name in order if name != _STUCK
        },
        requests=sorted(played.requests for played in plays)[len(plays) // 2],
        ends=ends,
    )


_STUCK: Final = "stuck"
_OUTCOMES: Final = ("promoted", "winner", "no difference", "undecided", "rolled back", "paused", _STUCK)


def _outcome(played: Played) -> str:
    if played.ending is Ending.CONCLUDED:
        return played.cause.value.replace("_", " ")
    return _STUCK if played.ending is Ending.UNDECIDED else played.ending.value.replace("_", " ")


def as_lines(found: Sequence[Outlook]) -> list[str]:
    """A table for people: a line for each candidate and each way in which its rollouts ended."""
    rows = []
    for item in found:
        first = f"{item.scenario.name}{f' ({item.scenario.why})' if item.scenario.why else ''}"
        for name, share in item.outcomes.items():
            quantiles = item.times.get(name, ())
            times = [shown(quantile.after) for quantile in quantiles] or ["-"] * len(QUANTILES)
            known = [f"{shown(quantile.low)} to {shown(quantile.high)}" for quantile in quantiles if quantile.at == 0.5]
            rows.append([first, name, f"{share.rate:.0%} +- {share.error:.0%}", *times, *(known or ["-"])])
            first = ""
    header = ["candidate", "ends", "of the runs", *(f"after {at:.0%}" for at in QUANTILES), "50% +- one error"]
    return table(header, rows, "text")


def shown(after: timedelta) -> str:
    """A duration to three digits or so: ``45s``, ``17m30s``, ``6h12m``, ``2d3h``."""
    seconds = after.total_seconds()
    unit = 3600 if seconds >= 86_400 else 60 if seconds >= 3600 else 1
    return format_duration(timedelta(seconds=round(seconds / unit) * unit))


def as_json(item: Outlook) -> dict[str, Any]:
    """One candidate for programs: shares in 0..1, times in seconds."""
    return {
        "candidate": item.scenario.name,
        "kind": item.scenario.kind.value,
        "metric": item.scenario.metric or None,
        "why": item.scenario.why or None,
        "runs": item.runs,
        "outcomes": {
            name: {
                "runs": share.happened,
                "share": share.rate,
                "error": share.error,
                "seconds": {
                    f"{quantile.at:g}": {
                        "value": quantile.after.total_seconds(),
                        "low": quantile.low.total_seconds(),
                        "high": quantile.high.total_seconds(),
                    }
                    for quantile in item.times.get(name, ())
                },
            }
            for name, share in item.outcomes.items()
        },
        "power": item.power.rate,
        "power_error": item.power.error,
        "candidate_requests": item.requests,
    }
