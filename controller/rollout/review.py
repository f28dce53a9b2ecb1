"""What the evidence says of a rollout at this moment, for an operator who is about to move its users."""

from __future__ import annotations

from datetime import datetime

from abmesh.experiment.model import Experiment
from controller.decision.decide import Inputs, judge
from controller.evidence.coverage import Coverage
from controller.records import ExperimentState
from controller.rollout.collect import evidence_of
from controller.settings import Settings
from controller.state.evidence import EvidenceStore
from controller.wording.verdicts import judgement_text, sample_ratio_text


def verdicts(settings: Settings, experiment: Experiment, state: ExperimentState, now: datetime) -> list[str]:
    """One line for the emergency stop if it acts, for every guardrail that is judged, and for a sample-ratio alarm.

    They are of the last evidence that a controller collected; empty if there is none for this stage, or nothing is
    judged in this phase.

    Args:
        settings: document and state folder.
        experiment: as the document has it; it has a rollout.
        state: of the rollout.
        now: the time.
    """
    kept = EvidenceStore(settings.state_folder).read(experiment.name)
    if kept is None or kept.stage != state.stage.id or kept.window is None or not kept.window.seen:
        return []
    inputs = Inputs(
        experiment=experiment,
        state=state,
        history=kept.history,
        coverage=Coverage(len(kept.window.seen), ()),
        at=max(reading.at for reading in kept.window.seen.values()),
        now=now,
        began=kept.window.since,
        evidence=evidence_of(experiment, kept),
    )
    situation, _ = judge(inputs)
    lines = [f"{item.verdict}: {judgement_text(item, state)}" for item in situation.judgements]
    if situation.sample_ratio.alarm:
        lines.append(f"alarm: {sample_ratio_text(situation.sample_ratio, situation.rollout)}")
    return lines
