"""The report at the end of a scenario: what ``abmesh analyze`` says, and whether it is what the scenario planted.

Called by :mod:`abmesh.cli.demo.run`.
"""

from __future__ import annotations

from dataclasses import replace

from abmesh.analysis.records import AnalysisReport
from abmesh.analysis.render import as_text
from abmesh.cli.analyze_live import report_live
from abmesh.cli.demo.scenarios import Scenario
from abmesh.experiment.errors import AbmeshError
from controller.rollout.files import Files
from controller.settings import Settings


def make_report(scenario: Scenario, experiment: str, settings: Settings) -> tuple[AnalysisReport | None, str]:
    """Make a scenario's report.

    Returns:
        The report, and what is wrong with it; None and an empty string if the scenario asks for no report.
    """
    if not scenario.reported:
        return None, ""
    try:
        report = report_live(experiment, Files(settings), None, None, None)
    except AbmeshError as error:
        return None, f"there is no report: {error}"
    return report, mismatch(report, scenario)


def mismatch(report: AnalysisReport, scenario: Scenario) -> str:
    """How a report differs from what the scenario expects; empty if it does not."""
    parts = {part.metric.name: part for part in report.metrics}
    for name, wanted in scenario.reported.items():
        if name not in parts or not parts[name].segments:
            return f"the report has no {name} by segment"
        found = [item.verdict for item in parts[name].comparisons]
        if wanted and found != [wanted]:
            return f"expected {name} to be {wanted}, found {', '.join(found)}"
        for segment, planted in scenario.by_segment.get(name, {}).items():
            found = [item.verdict for item in parts[name].segments if item.segment == segment]
            if not found or not set(found) <= {planted, "undecided"}:
                return f"expected {name} of {segment} to be {planted}, found {', '.join(found) or 'nothing'}"
    return ""


def report_text(report: AnalysisReport, scenario: Scenario) -> str:
    """The part of a report about the metrics that the scenario shows, as text."""
    metrics = [part for part in report.metrics if part.metric.name in scenario.reported]
    return as_text(replace(report, metrics=metrics), "text")
