"""What the evidence says of a rollout at this moment, for an operator who is about to move its users."""

from __future__ import annotations

from datetime import datetime

from abmesh.experiment.model import Experiment
from controller.decision.decide import Inputs, judge
from controller.evidence.coverage import Coverage
from controller.records import ExperimentState, Phase
from controller.rollout.collect import evidence_of
from controller.state.ports import EvidenceReader
from controller.wording.control import broken_text
from controller.wording.verdicts import goal_text, judgement_text, sample_ratio_text


def verdicts(store: EvidenceReader, experiment: Experiment, state: ExperimentState, now: datetime) -> list[str]:
    """One line for the emergency stop if it acts, for every guardrail in force, the goal, and a sample-ratio alarm.

    They are of the last evidence that a controller collected, whose time the first line says: where a rollout is
    finished or manual, that of before. Empty if there is none for this stage.

    Args:
        store: has the evidence.
        experiment: as the document has it; it has a rollout.
        state: of the rollout.
        now: the time.
    """
    kept = store.read(experiment.name)
    if kept is None or kept.stage != state.stage.id or kept.window is None or not kept.window.seen:
        return []
    until = max(reading.at for reading in kept.window.seen.values())
    inputs = Inputs(
        experiment=experiment,
        state=state.model_copy(update={"phase": Phase.PROGRESSING}),
        history=kept.history,
        coverage=Coverage(len(kept.window.seen), ()),
        at=until,
        now=now,
        began=kept.window.since,
        evidence=evidence_of(experiment, kept),
    )
    situation, _ = judge(inputs)
    if not situation.judgements:
        return []
    lines = [f"on what was counted until {until:%Y-%m-%d %H:%M:%S} UTC:"]
    if broken := broken_text(situation.control, state):
        lines.append(broken)
    lines += dict.fromkeys(f"{item.verdict}: {judgement_text(item, state)}" for item in situation.judgements)
    if situation.goal is not None:
        lines.append(f"goal: {goal_text(situation.goal, situation.rollout, state)}")
    lines += [f"secondary goal: {goal_text(item, situation.rollout, state)}" for item in situation.secondary_goals]
    if situation.sample_ratio.alarm:
        lines.append(f"alarm: {sample_ratio_text(situation.sample_ratio, situation.rollout)}")
    return lines
