"""An Experiment's ``status``: where a rollout stands. Only the leading controller writes it. Pure.

Weights are percentages here, as people read them; :func:`points` and :func:`percentages` convert them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AwareDatetime, ConfigDict, Field, PlainSerializer, StrictInt
from pydantic.alias_generators import to_camel

from abmesh.experiment.quantities import format_percent, parse_weight, percent_of
from abmesh.experiment.validation import Described

Phase: TypeAlias = Literal["Pending", "Progressing", "Paused", "Manual", "Promoted", "RolledBack", "Concluded"]
Truth: TypeAlias = Literal["True", "False", "Unknown"]

ACCEPTED: Final = "Accepted"
"""Whether the spec can be served."""

PROGRAMMED: Final = "Programmed"
"""Whether the gateways or sidecars split the routes."""

HEALTHY: Final = "Healthy"
"""Whether every guardrail is known to be kept."""

PROGRESSING: Final = "Progressing"
"""Whether the controller moves the weights."""

READY: Final = "Ready"
"""All of it in one word, for programs that know no more."""

RESTORED: Final = "Restored"
"""Whether a deleted Experiment that came back goes on where it was."""

CONTESTED: Final = "Contested"
"""Whether somebody else puts the weights of a route back."""

LONGEST_REASON: Final = 1024
LONGEST_MESSAGE: Final = 4096

Name: TypeAlias = Annotated[str, Field(max_length=63)]
Percent: TypeAlias = Annotated[float, Field(ge=0, le=100)]
Percentages: TypeAlias = Annotated[dict[str, Percent], Field(max_length=20)]
Span: TypeAlias = Annotated[tuple[StrictInt, ...], Field(min_length=2, max_length=2)]
Spans: TypeAlias = Annotated[dict[str, Annotated[tuple[Span, ...], Field(max_length=1000)]], Field(max_length=20)]


def _timestamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


Moment: TypeAlias = Annotated[AwareDatetime, PlainSerializer(_timestamp)]


class StatusPart(Described):
    """Base of the status' models: immutable, camelCase in the object; what a newer controller wrote is left alone."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Leader(StatusPart):
    """Who may write this status.

    Attributes:
        epoch: counts the leaders; a write of an older one is refused.
        identity: the leader's pod.
    """

    epoch: Annotated[int, Field(ge=0)]
    identity: Annotated[str, Field(max_length=253)] = ""


class Plan(StatusPart):
    """The plan that the rollout follows; a spec with another one begins a new stage.

    Attributes:
        candidate: the variant that is rolled out.
        control: the variant that it is compared with.
        steps: weights of the candidate, in percent.
    """

    candidate: Name
    control: Name
    steps: Annotated[tuple[Percent, ...], Field(max_length=100)]


class StageStatus(StatusPart):
    """The stage that the rollout is in.

    Attributes:
        id: the decision that began it.
        index: number of the step, from 0.
        of: number of steps.
        weight: the candidate's, in percent.
        since: when it began.
    """

    id: Annotated[str, Field(max_length=64)] | None = None
    index: Annotated[int, Field(ge=0, le=100)] | None = None
    of: Annotated[int, Field(ge=0, le=100)] | None = None
    weight: Percent | None = None
    since: Moment | None = None


class LastDecision(StatusPart):
    """The last decision that changed anything.

    Attributes:
        id: the decision's, as in the journal.
        action: what was decided.
        cause: why, in one word.
        reason: why, in a sentence.
        at: when.
        actor: who: the controller or an operator.
        by: the operator's name.
    """

    id: Annotated[str, Field(max_length=64)] | None = None
    action: Annotated[str, Field(max_length=63)] | None = None
    cause: Annotated[str, Field(max_length=63)] | None = None
    reason: Annotated[str, Field(max_length=LONGEST_MESSAGE)] | None = None
    at: Moment | None = None
    actor: Literal["controller", "operator"] | None = None
    by: Annotated[str, Field(max_length=253)] | None = None


class LastRequest(StatusPart):
    """The last request of the annotation abmesh.dev/request that was answered.

    Attributes:
        id: the request's.
        action: what was asked for.
        outcome: whether it was done or refused.
        message: the answer, in a sentence.
        at: when it was answered.
    """

    id: Annotated[str, Field(max_length=64)]
    action: Annotated[str, Field(max_length=63)] | None = None
    outcome: Literal["done", "refused"]
    message: Annotated[str, Field(max_length=LONGEST_REASON)] = ""
    at: Moment | None = None


class Condition(StatusPart):
    """One aspect of the state.

    Attributes:
        type: which aspect.
        status: True, False or Unknown.
        reason: why, in one word.
        message: why, in a sentence.
        last_transition_time: when the status last changed.
        observed_generation: the generation of the spec that it is about.
    """

    type: Annotated[str, Field(max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9._/-]*$")]
    status: Truth
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON, pattern=r"^[A-Za-z][A-Za-z0-9_,:]*$")]
    message: Annotated[str, Field(max_length=32768)]
    last_transition_time: Moment
    observed_generation: Annotated[int, Field(ge=0)] | None = None


class ExperimentStatus(StatusPart):
    """Where the rollout stands. Only the controller writes it.

    Attributes:
        observed_generation: the generation of the spec that this is about.
        run: the rollout's run that was begun last.
        leader: who may write this status.
        phase: where the rollout is.
        reason: why it is there, in a sentence.
        candidate_weight: the candidate's weight in force, for people.
        weights: weights in force, in percent.
        ranges: which of 10,000 buckets of users each variant has, half-open.
        last_seen_spec_weights: the spec's weights that the controller took notice of last.
        plan: the plan that the rollout follows.
        stage: the stage that the rollout is in.
        last_decision: the last decision that changed anything.
        last_request: the last request that was answered.
        salt_digest: of a secret salt, so that another one is noticed.
        conditions: one for each aspect of the state.
    """

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    run: Name | None = None
    leader: Leader | None = None
    phase: Phase | None = None
    reason: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None
    candidate_weight: Annotated[str, Field(max_length=8)] | None = None
    weights: Percentages | None = None
    ranges: Spans | None = None
    last_seen_spec_weights: Percentages | None = None
    plan: Plan | None = None
    stage: StageStatus | None = None
    last_decision: LastDecision | None = None
    last_request: LastRequest | None = None
    salt_digest: Annotated[str, Field(max_length=64)] | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=20)] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type; None if there is none."""
        return next((item for item in self.conditions if item.type == kind), None)

    def written(self) -> dict[str, Any]:
        """It as the object has it, without what is not known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def with_condition(
    conditions: Iterable[Condition],
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    *,
    now: datetime,
    generation: int | None = None,
) -> tuple[Condition, ...]:
    """The conditions with one of them set; the others and their order stay.

    Args:
        conditions: those of before.
        kind: the condition's type, such as :data:`ACCEPTED`.
        status: its new status.
        reason: why, in one CamelCase word.
        message: why, in a sentence; what is too long for the object is cut off.
        now: becomes the time of the last transition if the status differs from before.
        generation: of the spec that it is about.
    """
    before = tuple(conditions)
    known = next((item for item in before if item.type == kind), None)
    moved = known is None or known.status != status
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:LONGEST_MESSAGE],
        last_transition_time=now if moved or known is None else known.last_transition_time,
        observed_generation=generation,
    )
    return (*before, new) if known is None else tuple(new if item is known else item for item in before)


def points(weights: Mapping[str, float]) -> dict[str, int]:
    """Percentages as basis points.

    Raises:
        ValueError: one of them is not a weight.
    """
    found = {name: parse_weight(percent) for name, percent in weights.items()}
    wrong = [name for name, weight in found.items() if weight is None]
    if wrong:
        raise ValueError(f"not a weight: {wrong[0]} {weights[wrong[0]]}")
    return {name: weight for name, weight in found.items() if weight is not None}


def percentages(weights: Mapping[str, int]) -> dict[str, float]:
    """Basis points as percentages, whole ones as whole numbers."""
    return {name: percent_of(weight) for name, weight in weights.items()}


def candidate_weight(weights: Mapping[str, int], candidate: str) -> str:
    """The candidate's weight for people: ``12.5%``."""
    return format_percent(weights[candidate])
