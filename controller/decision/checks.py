"""Whether checks pass: other people's numbers, judged by their threshold alone. Pure.

:mod:`controller.rollout.checker` asks and keeps the results, which are an input of the decision. Nothing here is
statistics: a check takes no part of ``alpha``, and how often it acts by chance is known to nobody. So whatever shows
one says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from abmesh.experiment.checks import Check
from abmesh.experiment.model import Experiment
from controller.records import ExperimentState, Phase, Record


class CheckResult(Record):
    """The last answer to a check, and what came before it.

    Attributes:
        name: of the check.
        at: when the last request ended.
        value: the number, of Prometheus; None of a webhook, or without an answer.
        status: of a webhook's answer; 0 if there was none.
        problem: why the last request brought no answer; empty if it did.
        failing: how many of the last answers failed, in a row; a request without an answer changes nothing.
    """

    name: str
    at: AwareDatetime
    value: float | None = None
    status: int = 0
    problem: str = ""
    failing: Annotated[int, Field(ge=0)] = 0


class CheckVerdict(StrEnum):
    """What the last answers say.

    PASSED: the last one passes. FAILING: it does not, but too few in a row for the check to act. FAILED: it acts.
    UNANSWERED: there is no answer, so the rollout holds.
    """

    PASSED = "passed"
    FAILING = "failing"
    FAILED = "failed"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class CheckJudgement:
    """A verdict on one check.

    Attributes:
        name: its name.
        verdict: what the last answers say.
        on_failure: what it does when it fails: ``hold`` or ``rollback``.
        value: the last number.
        status: the last status of a webhook; 0 if there was none.
        failing: failing answers in a row.
        age: seconds since the last request ended; None if none has.
        problem: why there is no answer.
        check: as the document has it.
    """

    name: str
    verdict: CheckVerdict
    on_failure: str
    value: float | None = None
    status: int = 0
    failing: int = 0
    age: float | None = None
    problem: str = ""
    check: Check | None = None

    @property
    def rolls_back(self) -> bool:
        """Whether it failed and rolls back."""
        return self.verdict is CheckVerdict.FAILED and self.on_failure == "rollback"


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """What to ask while a candidate has users.

    Attributes:
        experiment: its name.
        candidate: the variant that is rolled out.
        control: its control.
        weight: the candidate's, in basis points.
        phase: of the rollout.
        decision: the id of the decision that began the stage.
        checks: of the rollout.
    """

    experiment: str
    candidate: str
    control: str
    weight: int
    phase: str
    decision: str
    checks: tuple[Check, ...]


Results = Mapping[str, Mapping[str, CheckResult]]
"""The last result of each check, by experiment and by the check's name."""


def check_target(experiment: Experiment, state: ExperimentState) -> CheckTarget | None:
    """What to ask about a rollout; nothing while its candidate has no users, or once it is over or somebody else's."""
    rollout = experiment.rollout
    assert rollout is not None
    asked = state.phase in (Phase.PROGRESSING, Phase.PAUSED) and state.stage.weight > 0
    if not rollout.checks or not asked:
        return None
    return CheckTarget(
        experiment=experiment.name,
        candidate=state.candidate,
        control=state.control,
        weight=state.stage.weight,
        phase=state.phase.value,
        decision=state.stage.id,
        checks=rollout.checks,
    )


def passes(check: Check, value: float | None, status: int) -> bool:
    """Whether an answer passes: a number within its limits, or a 2xx status."""
    if check.webhook is not None:
        return 200 <= status < 300
    assert value is not None
    return (check.max is None or value <= check.max) and (check.min is None or value >= check.min)


def after_answer(
    check: Check, before: CheckResult | None, at: datetime, value: float | None, status: int
) -> CheckResult:
    """The result after an answer."""
    failing = 0 if passes(check, value, status) else 1 + (before.failing if before else 0)
    return CheckResult(name=check.name, at=at, value=value, status=status, failing=failing)


def without_answer(check: Check, before: CheckResult | None, at: datetime, problem: str) -> CheckResult:
    """The result after a request that brought no answer."""
    return CheckResult(name=check.name, at=at, problem=problem, failing=before.failing if before else 0)


def judge_checks(checks: Sequence[Check], results: Sequence[CheckResult], now: datetime) -> tuple[CheckJudgement, ...]:
    """The verdict on every check, in the document's order."""
    known = {item.name: item for item in results}
    return tuple(_judged(check, known.get(check.name), now) for check in checks)


def _judged(check: Check, result: CheckResult | None, now: datetime) -> CheckJudgement:
    if result is None:
        problem = "it has not been asked yet"
        return CheckJudgement(check.name, CheckVerdict.UNANSWERED, check.on_failure, problem=problem, check=check)
    age, problem = max(now - result.at, timedelta()), result.problem
    if not problem and age > 3 * check.interval + check.timeout:
        problem = f"its last answer is {age.total_seconds():.0f} s old"
    if problem:
        verdict = CheckVerdict.UNANSWERED
    elif not result.failing:
        verdict = CheckVerdict.PASSED
    else:
        verdict = CheckVerdict.FAILED if result.failing >= check.failures else CheckVerdict.FAILING
    return CheckJudgement(
        name=check.name,
        verdict=verdict,
        on_failure=check.on_failure,
        value=result.value,
        status=result.status,
        failing=result.failing,
        age=age.total_seconds(),
        problem=problem,
        check=check,
    )
