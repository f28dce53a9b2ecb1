"""What a verdict about one guardrail is, however it was reached. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from controller.evidence.summary import VariantEvidence, rounded
from experiment.rollout import Guardrail


class Verdict(StrEnum):
    """What the evidence says about a guardrail.

    HEALTHY lets a rollout go on, HARMFUL rolls it back, INCONCLUSIVE and ERROR hold it: there is too little evidence,
    or none that could be judged.
    """

    HEALTHY = "healthy"
    HARMFUL = "harmful"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the numbers behind it.

    Attributes:
        metric: the guardrail's metric.
        kind: which limit it has, ``max`` or ``max_increase``.
        verdict: what the evidence says.
        text: one sentence with the numbers, without a full stop.
        value: the candidate's value: a share in 0..1 or milliseconds, as the metric has it; None if there is none.
        limit: the highest value allowed, in the same unit.
        control: the control's value, where the limit depends on it.
        n: how many of the candidate's requests the value is taken from.
    """

    metric: str
    kind: str
    verdict: Verdict
    text: str
    value: float | None = None
    limit: float | None = None
    control: float | None = None
    n: int = 0

    def outline(self) -> dict[str, Any]:
        """The judgement as the journal keeps it."""
        fields = asdict(self)
        return {**fields, **{name: rounded(fields[name]) for name in ("value", "limit", "control")}}


class Judge(Protocol):
    """A way to reach a verdict."""

    def __call__(self, guardrail: Guardrail, candidate: VariantEvidence, control: VariantEvidence) -> Judgement:
        """Judge one guardrail on the evidence of a stage."""
