"""The documents whose rollouts are played: the one that is shipped, and others with its variants. Pure."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from abmesh.analysis.changed import changed
from abmesh.analysis.planning import PlanQuestion, plan_for
from abmesh.experiment.codec import parse
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Rollout

SHIPPED: Final = Path(__file__).parents[2] / "experiments.yaml"

STEPS: Final = (5, 10, 25, 50, 75, 100)
GOAL_SIZES: Final = {(0.5, 0.02): 19_341, (0.8, 0.02): 11_817, (0.02, 0.004): 41_327}
"""Requests of each variant that ``abmesh plan`` gives for a goal's share and what the candidate adds, at any look.

Written down, because every process that plays a world would take seconds to find them; a test compares them with the
plan.
"""

_STAGE: Final = {"min_duration": "15m", "min_requests": 500}
"""So short that a rollout takes an hour and a half if nothing holds it up, and six hours tell that one is stuck."""


@lru_cache(maxsize=1)
def shipped() -> Experiment:
    """The experiment of the document that is shipped."""
    return parse(SHIPPED.read_text(encoding="utf-8"), SHIPPED.name).experiments[0]


def default() -> Experiment:
    """The shipped guardrails on stages that are short enough for six hours, without the goal, which decides nothing."""
    return _rollout({"guardrails": _guardrails()})


def any_harm() -> Experiment:
    """Errors and p95 that may not rise by more than a half and a fifth, where any proven increase rolls back."""
    return _rollout(
        {
            "guardrails": [
                {"metric": "error_rate", "max_increase": "50%", "relative": True, "harm": "any"},
                {"metric": "latency_p95", "max_increase": "20%", "relative": True, "harm": "any"},
            ]
        }
    )


def watched() -> Experiment:
    """The shipped guardrails on an even split that stays, for a report of some hours."""
    stage = {"min_duration": "1d", "min_requests": 500}
    return changed(_rollout({"guardrails": _guardrails(), "steps": [50], "stage": stage}), events=["click"])


def goal(metric: str, baseline: float, effect: float) -> Experiment:
    """An experiment whose goal is a share, at the size that ``abmesh plan`` gives for decisions at any look."""
    size = GOAL_SIZES[baseline, effect]
    plan = {"mode": "experiment", "steps": [50], "stage": {"min_duration": "5m", "min_requests": 100}}
    return _rollout({**plan, "goal": {"metric": metric, "increase": effect > 0, "planned_requests": size}})


def planned(baseline: float, effect: float) -> int:
    """Requests of each variant that ``abmesh plan`` gives for finding a difference of shares at any look."""
    designs = plan_for(PlanQuestion(baseline=baseline, unit="share", sd=None, effect=effect)).designs
    return next(design.candidate for design in designs if design.name == "anytime-valid")


def _guardrails() -> list[Any]:
    rollout = shipped().rollout
    assert rollout is not None
    return [rail.model_dump(exclude_unset=True) for rail in rollout.guardrails]


def _rollout(plan: dict[str, Any]) -> Experiment:
    """The shipped experiment with this rollout, and nobody on the candidate yet."""
    subject = shipped()
    fields = {"candidate": "model-b", "steps": STEPS, "stage": _STAGE, **plan}
    weights = {variant.name: 10_000 if variant.control else 0 for variant in subject.variants}
    variants = tuple(variant.model_copy(update={"weight": weights[variant.name]}) for variant in subject.variants)
    return changed(subject, variants=variants, segments=None, rollout=Rollout.model_validate(fields))
