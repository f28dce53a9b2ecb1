"""The picture of a rollout's plan: power against effect, by several times. Called by :mod:`abmesh.cli.plan_rollout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import typer

from abmesh.analysis.pictures import PowerCurve, PowerPicture, ReferenceLine
from abmesh.analysis.rollout_plan import Outlook, shown
from abmesh.analysis.scenarios import Kind, Scenario, scaled, value_of
from abmesh.analysis.truth import Truth
from abmesh.cli.plays import Simulation, simulate
from abmesh.cli.plots.power import power_curves

_PARTS: Final = (0.25, 0.5, 0.75, 1.5)
"""Of a candidate's difference, beside none of it and all of it."""


def draw(given: Simulation, truth: Truth, outlooks: Sequence[Outlook], path: Path) -> None:
    """Simulate smaller and larger effects as well, and draw how often each was found, and by when.

    Args:
        given: what is simulated.
        truth: without a difference.
        outlooks: of the plan's candidates, the first without a difference.
        path: of the picture.

    Raises:
        SettingsError, StartError: the picture cannot be drawn or written.
    """
    same, *different = outlooks
    if not different:
        typer.echo("no picture: no candidate differs from its control", err=True)
        return
    between = [(item, part) for item in different for part in _PARTS]
    made = [(item, part, _part_of(given, truth, item.scenario, part)) for item, part in between]
    possible = [(item, part, scenario) for item, part, scenario in made if scenario is not None]
    typer.echo("simulating other effects for the picture", err=True)
    found = simulate(given, [scenario for _, _, scenario in possible], part=1)
    pictures = []
    for item in different:
        points = {0.0: same, 1.0: item}
        points |= {part: each for (of, part, _), each in zip(possible, found, strict=True) if of is item}
        pictures.append(_picture(given, truth, item, dict(sorted(points.items()))))
    power_curves(pictures, path)


def _part_of(given: Simulation, truth: Truth, scenario: Scenario, part: float) -> Scenario | None:
    """The candidate with a part of its difference; None if it cannot be that different."""
    metric = given.experiment.metrics[scenario.metric]
    factor = 1 + (scenario.factor - 1) * part
    changed = scaled(truth, metric, factor) if factor > 0 else None
    value = None if changed is None else value_of(given.experiment, metric, changed, candidate=True)
    if changed is None or value is None or (metric.unit == "share" and value >= 1):
        return None
    return replace(scenario, truth=changed, factor=factor)


def _picture(given: Simulation, truth: Truth, whole: Outlook, points: dict[float, Outlook]) -> PowerPicture:
    metric = given.experiment.metrics[whole.scenario.metric]
    paused = {"rolled back", "paused"} & set(whole.outcomes) == {"paused"}
    outcome = "winner" if whole.scenario.kind is Kind.BETTER else "paused" if paused else "rolled back"
    rollout = given.experiment.rollout
    assert rollout is not None
    without = value_of(given.experiment, metric, truth, candidate=True)
    control = value_of(given.experiment, metric, truth, candidate=False)
    assert without is not None
    assert control is not None
    effects = [without * (1 + (whole.scenario.factor - 1) * part) for part in points]
    ordered = sorted(zip(effects, points.values(), strict=True), key=lambda pair: pair[0])
    curves = [
        PowerCurve(
            label=f"{outcome} within {shown(limit)}",
            effects=[effect for effect, _ in ordered],
            happened=[item.within(outcome, limit).happened for _, item in ordered],
            runs=[item.runs for _, item in ordered],
        )
        for limit in _times(given.longest, whole, outcome)
    ]
    unit = {"share": "", "duration": " in ms", "dollars": " in US dollars", "number": ""}[metric.unit]
    return PowerPicture(
        title=f"{given.experiment.name}: {metric.name}",
        effect=f"the candidate's {metric.name}{unit}",
        curves=curves,
        effects=[ReferenceLine(control, "the control's value")],
        rates=[ReferenceLine(rollout.analysis.alpha, f"alpha {rollout.analysis.alpha:g}")],
        percent=metric.unit == "share",
    )


def _times(longest: timedelta, whole: Outlook, outcome: str) -> list[timedelta]:
    """Some round times by which the whole effect is found more and more often, and the longest."""
    seen = [quantile.after for quantile in whole.times.get(outcome, ())]
    rounded = {next((each for each in _ROUND if each >= after), longest) for after in seen}
    return sorted({min(each, longest) for each in (*rounded, longest)})


_ROUND: Final = tuple(
    timedelta(minutes=minutes)
    for minutes in (1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 240, 360, 480, 720, 1440, 2880, 4320, 5760, 10080)
)
