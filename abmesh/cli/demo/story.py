"""The report that a scenario ends with: what ``abmesh analyze`` says, and whether it tells the scenario's story."""

from __future__ import annotations

from dataclasses import replace

from abmesh.analysis.records import AnalysisReport
from abmesh.analysis.render import as_text
from abmesh.cli.analyze_live import report_live
from abmesh.cli.demo.scenarios import Scenario
from abmesh.experiment.errors import AbmeshError
from controller.settings import Settings


def report_of(scenario: Scenario, experiment: str, settings: Settings) -> tuple[AnalysisReport | None, str]:
    """A report, and what it lacks to tell the story; nothing of both where none is to be told."""
    if not scenario.reported:
        return None, ""
    try:
        report = report_live(experiment, settings.config, settings.state_dir, None, None, None)
    except AbmeshError as error:
        return None, f"there is no report: {error}"
    return report, untold(report, scenario)


def untold(report: AnalysisReport, scenario: Scenario) -> str:
    """What a report lacks to tell the story; empty if nothing."""
    parts = {part.metric.name: part for part in report.metrics}
    for name, wanted in scenario.reported.items():
        if name not in parts or not parts[name].segments:
            return f"the report has no {name} by segment"
        found = [item.verdict for item in parts[name].comparisons]
        if wanted and found != [wanted]:
            return f"expected {name} to be {wanted}, the report finds it {', '.join(found)}"
        for segment, planted in scenario.by_segment.get(name, {}).items():
            found = [item.verdict for item in parts[name].segments if item.segment == segment]
            if not found or not set(found) <= {planted, "undecided"}:
                return (
                    f"expected {name} of {segment} to be {planted}, the report finds it {', '.join(found) or 'nowhere'}"
                )
    return ""


def told(report: AnalysisReport, scenario: Scenario) -> str:
    """The part of a report that tells the story, as text."""
    metrics = [part for part in report.metrics if part.metric.name in scenario.reported]
    return as_text(replace(report, metrics=metrics), "text")
