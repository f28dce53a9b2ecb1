"""What the controller has counted, as a report: the part of ``abmesh analyze`` that needs no CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abmesh.experiment.errors import RefusedError, StateError, UnknownName

if TYPE_CHECKING:
    from abmesh.analysis.records import AnalysisReport
    from abmesh.analysis.rollout_evidence import RolloutQuestion
    from abmesh.experiment.metrics import Metric
    from abmesh.experiment.model import Experiment
    from controller.evidence.strata import Stratum
    from controller.rollout.place import Place

_MOST_MOMENTS = 120


def report_live(name: str, place: Place, metric: str | None, alpha: float | None, plot: Path | None) -> AnalysisReport:
    """Analyse what the controller has counted."""
    from abmesh.analysis.rollout_evidence import RolloutQuestion
    from abmesh.analysis.rollout_report import report_of_strata
    from abmesh.analysis.rollout_segments import with_segments

    experiment = place.experiment(name)
    if experiment.rollout is None:
        raise RefusedError(f"{name} has no rollout, so the controller counts nothing; analyze --from reads a CSV")
    strata = _strata(place, experiment)
    if not strata:
        raise RefusedError(f"nothing was counted for {name} yet; `abmesh status` shows whether a controller runs")
    question = RolloutQuestion.of(experiment, alpha)
    if metric is not None and metric not in experiment.metrics:
        raise UnknownName("metric", metric, tuple(experiment.metrics))
    measured = _reported(experiment, strata) if metric is None else (experiment.metrics[metric],)
    report = report_of_strata(strata, question, measured)
    if experiment.segments is not None:
        report = with_segments(report, strata, question, measured, experiment.segments.values)
    if plot is not None:
        _draw_live(report, question, _moments(place, name), measured, plot)
    return report


def _reported(experiment: Experiment, strata: Sequence[Stratum]) -> tuple[Metric, ...]:
    """The metrics of guardrails and goal, error rates, and whatever else was counted."""
    from abmesh.analysis.rollout_report import counted
    from abmesh.experiment.metrics import ERROR_RATE

    rollout = experiment.rollout
    assert rollout is not None
    wanted = {ERROR_RATE.name, *(guardrail.metric for guardrail in rollout.guardrails)}
    wanted |= {goal.metric for goal in rollout.goals}
    return tuple(item for item in experiment.metrics.values() if item.name in wanted or counted(strata, item))


def _draw_live(
    report: AnalysisReport,
    question: RolloutQuestion,
    moments: Sequence[tuple[float, Sequence[Stratum]]],
    measured: Sequence[Metric],
    plot: Path,
) -> None:
    """How the differences developed, one panel a metric; bars where there are too few moments yet."""
    from abmesh.analysis.rollout_report import difference_at, reported
    from abmesh.analysis.series import bars_of, series_of
    from abmesh.cli.plots.bars import draw_bars
    from abmesh.cli.plots.sequences import draw_series

    if len(moments) < 2:
        draw_bars(bars_of(report), plot)
        return
    series = []
    for metric in measured:
        found = [(at, difference_at(strata, question, metric)) for at, strata in moments]
        series.append(
            series_of(f"{question.name}: {metric.name}", reported(metric), found, dated=True, control=question.control)
        )
    draw_series(series, plot)


def _moments(place: Place, name: str) -> list[tuple[float, list[Stratum]]]:
    """Evidence at recorded moments of the current rollout, evenly thinned out to at most 120, by the journal."""
    from controller.codec.inputs import load_inputs
    from controller.decision.decide import past_strata
    from controller.evidence.strata import Stratum
    from controller.state.lookup import packed_in, recorded_moments

    live = place.evidence.read(name)
    if live is None:
        return []
    packed = packed_in(live.history)
    found = []
    for entry in recorded_moments(place.journal(name), name, live.stage, packed.keys(), _MOST_MOMENTS):
        try:
            inputs = load_inputs(entry, packed)
        except StateError:
            continue
        present = Stratum(inputs.state.weights, inputs.evidence, inputs.history.edges)
        found.append((entry.at.timestamp(), [*past_strata(inputs.history, inputs.experiment.prices), present]))
    return found


def _strata(place: Place, experiment: Experiment) -> list[Stratum]:
    """Everything that was counted since the rollout began, one stratum a stage."""
    from controller.decision.decide import past_strata
    from controller.evidence.strata import Stratum
    from controller.rollout.collect import evidence_of

    known = place.states().experiments.get(experiment.name)
    live = place.evidence.read(experiment.name)
    if live is None:
        return []
    strata = past_strata(live.history, experiment.prices)
    if live.window is not None and known is not None and live.stage == known.stage.id:
        strata.append(Stratum(known.weights, evidence_of(experiment, live), live.history.edges))
    return strata
