"""The controller's own records: phases, stages, decisions, intents and journal entries. Pure, frozen.

:mod:`controller.decision.policy` decides on them, :mod:`controller.state.states` and :mod:`controller.state.journal`
keep them as JSON. Weights are basis points by variant, as everywhere.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from abmesh.experiment.model import Experiment

Weights = dict[str, Annotated[int, Field(ge=0, le=10_000)]]


class Record(BaseModel):
    """Base of what is kept on disk: immutable; an unknown key is a sign of damage."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Phase(StrEnum):
    """The state of a rollout, as one word."""

    PROGRESSING = "progressing"
    PAUSED = "paused"
    MANUAL = "manual"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    CONCLUDED = "concluded"

    @property
    def finished(self) -> bool:
        """Whether only ``resume`` starts it again."""
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.CONCLUDED)


class Kind(StrEnum):
    """What a decision does with the candidate."""

    ADVANCE = "advance"
    HOLD = "hold"
    ROLLBACK = "rollback"
    COMPLETE = "complete"


class Cause(StrEnum):
    """Why, as one word; ``docs/operations/controller.md`` explains each."""

    STARTING = "starting"
    WARMING = "warming"
    WARMUP_FAILED = "warmup_failed"
    PASSED = "passed"
    LAST_STEP_PASSED = "last_step_passed"
    HARMFUL = "harmful"
    PAUSED_FOR_HARM = "paused_for_harm"
    CHECK_FAILED = "check_failed"
    CHECK_UNANSWERED = "check_unanswered"
    CONTROL_BROKEN = "control_broken"
    HARM_SET_ASIDE = "harm_set_aside"
    TIMEOUT = "timeout"
    SETTLING = "settling"
    NOT_SERVED = "not_served"
    MISSING_DATA = "missing_data"
    MIN_DURATION = "min_duration"
    MIN_REQUESTS = "min_requests"
    INCONCLUSIVE = "inconclusive"
    UNJUDGED = "unjudged"
    SAMPLE_RATIO = "sample_ratio"
    GOAL_OPEN = "goal_open"
    WINNER = "winner"
    LOSER = "loser"
    NO_DIFFERENCE = "no_difference"
    UNDECIDED = "undecided"
    WEIGHTS_EDITED = "weights_edited"
    PLAN_CHANGED = "plan_changed"
    STATE_LOST = "state_lost"
    PAUSED = "paused"
    MANUAL = "manual"
    FINISHED = "finished"
    DOCUMENT_REFUSED = "document_refused"
    OPERATOR = "operator"
    PROBING = "probing"
    NO_WAY_BACK = "no_way_back"


class Stage(Record):
    """A span of time in which the candidate's weight stays the same.

    Attributes:
        id: the decision that began it.
        weight: of the candidate, in basis points.
        started_at: when its weights were written, by the wall clock, so that its age survives restarts.
    """

    id: str
    weight: Annotated[int, Field(ge=0, le=10_000)]
    started_at: AwareDatetime

    def age(self, now: datetime) -> timedelta:
        """How old the stage is; never negative, even if the clock was set back."""
        return max(now - self.started_at, timedelta())


class DecisionRecord(Record):
    """A decision as the state keeps it: what, why, when and by whom."""

    id: str
    kind: Kind
    cause: Cause
    reason: str
    at: AwareDatetime
    actor: Literal["controller", "operator"] = "controller"
    by: str = ""


class JournalEntry(Record):
    """One line of the journal: a decision and everything that it was made of.

    Attributes:
        by: who, if an operator decided.
        note: why, in the operator's own words.
        generation: of the document that it was based on, as 13 hex digits.
        obstacle: what kept the candidate at its weight, where the cause is that it took too long.
        reason: cause and numbers as a sentence for people; no program should depend on its wording.
        evidence: outline per variant since the stage's evidence began.
        judgements: outline per guardrail, and of the emergency stop if it acted.
        control: outline of each limit that the control itself was significantly beyond.
        goal: outline of the goal's, if it is measured.
        secondary_goals: outline of each secondary goal's, in the document's order.
        checks: outline of each check's, which stand outside of the error probability.
        balance: outline of the sample-ratio check, under the name that it had in the first version.
        paradoxes: outline of each Simpson's paradox.
        warnings: the same in sentences.
        inputs: everything that the decision can be recomputed from, in the form of :mod:`controller.codec.inputs`; None
            for an operator's command.
        sources: how many Envoys there are, how many answered, and why the others did not.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    at: AwareDatetime
    experiment: str
    actor: Literal["controller", "operator"]
    by: str = ""
    note: str = ""
    kind: Kind
    cause: Cause
    obstacle: Cause | None = None
    reason: str
    phase_before: Phase
    phase: Phase
    weights_before: Weights
    weights_after: Weights
    stage: Stage
    generation: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    judgements: list[dict[str, Any]] = Field(default_factory=list)
    control: list[dict[str, Any]] = Field(default_factory=list)
    goal: dict[str, Any] | None = None
    secondary_goals: list[dict[str, Any]] = Field(default_factory=list)
    checks: list[dict[str, Any]] = Field(default_factory=list)
    balance: dict[str, Any] = Field(default_factory=dict)
    paradoxes: list[dict[str, Any]] = Field(default_factory=list)
    warnings: tuple[str, ...] = ()
    inputs: dict[str, Any] | None = None
    sources: dict[str, Any] = Field(default_factory=dict)

    @property
    def decision(self) -> DecisionRecord:
        """What the entry decides, without what it was made of."""
        return DecisionRecord(
            id=self.id,
            kind=self.kind,
            cause=self.cause,
            reason=self.reason,
            at=self.at,
            actor=self.actor,
            by=self.by,
        )


class Remark(Record):
    """Something that is shown beside the last decision and did not make it.

    Attributes:
        about: what it is on: the control, a guardrail that only watches, a secondary goal, or a check.
        name: of that.
        verdict: in one word.
        text: a sentence without a full stop.
        value: the last one, if it is a number.
        at: when that was learnt.
    """

    about: Literal["control", "dry_run", "goal", "check"]
    name: str
    verdict: str
    text: str
    value: float | None = None
    at: AwareDatetime | None = None


class ExperimentState(Record):
    """What is remembered of one rollout.

    Attributes:
        candidate, control, steps: the plan that the rollout is following.
        weights: the last ones that the controller or an operator's command wrote or accepted; if the document has
            others, someone edited it.
        decision: the last one that changed anything; holds are not kept here.
        intent: a change that was begun and may not be complete.
    """

    phase: Phase
    candidate: str
    control: str
    steps: tuple[int, ...]
    weights: Weights
    stage: Stage
    decision: DecisionRecord | None = None
    intent: Intent | None = None


class Intent(Record):
    """A change of state and perhaps of weights, written down before it is carried out.

    Attributes:
        before: the document's weights that the change starts from.
        after: the state once it is complete; its ``weights`` are those to write.
        entry: the line that the journal will hold exactly once.
        unrecorded: lines of earlier changes that were carried out but not recorded, and that this one replaces.
    """

    before: Weights
    after: ExperimentState
    entry: JournalEntry
    unrecorded: tuple[JournalEntry, ...] = ()


ExperimentState.model_rebuild()


def adopt(experiment: Experiment, phase: Phase, stage_id: str, now: datetime) -> ExperimentState:
    """A state that takes the document's plan and weights as they stand and begins a stage of its own.

    The experiment must have a rollout.
    """
    assert experiment.rollout is not None
    candidate = experiment.rollout.candidate
    return ExperimentState(
        phase=phase,
        candidate=candidate,
        control=experiment.control.name,
        steps=experiment.rollout.steps,
        weights=experiment.weights,
        stage=Stage(id=stage_id, weight=experiment.weights[candidate], started_at=now),
    )
