"""The part of an experiment's rollout that can be simulated. Pure; called by ``abmesh simulate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from abmesh.analysis.explanation import name_of
from abmesh.experiment import metrics
from abmesh.experiment.errors import RefusedError
from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment


@dataclass(frozen=True, slots=True)
class Playable:
    """An experiment as far as it can be simulated.

    Attributes:
        experiment: without the guardrails and the goal on metrics that a simulation has no data for.
        left_out: the names of those.
    """

    experiment: Experiment
    left_out: tuple[str, ...] = ()


_AMOUNTS: Final = frozenset({metrics.ERRORS, metrics.ANSWERED, metrics.DURATION_MS, metrics.TIMED})


def simulated(metric: Metric) -> bool:
    """Whether :mod:`abmesh.analysis.simulation` has data for a metric: it makes errors and durations only."""
    if metric.quantile is not None:
        return metric.histogram == "duration"
    return _AMOUNTS.issuperset([*(name for name, _ in metric.parts), *metric.per])


def playable(experiment: Experiment) -> Playable:
    """An experiment with a rollout, without what cannot be simulated.

    A metric without data is never healthy, so a rollout that waits for it would hold forever; one that is never
    counted, such as refusals, would be healthy whatever its limit.

    Raises:
        RefusedError: nothing that decides can be simulated.
    """
    rollout = experiment.rollout
    assert rollout is not None
    kept = tuple(rail for rail in rollout.guardrails if simulated(rail.measured))
    left_out = [name_of(rail) for rail in rollout.guardrails if not simulated(rail.measured)]
    goal = rollout.goal
    if goal is not None and not simulated(goal.measured):
        left_out.append(f"goal {goal.metric}")
        goal = None
    if not left_out:
        return Playable(experiment)
    undecided = rollout.mode == "experiment" and goal is None
    if undecided or (rollout.guardrails and not kept and goal is None):
        raise RefusedError(
            f"{experiment.name} cannot be simulated: a simulation makes only errors and durations, and "
            f"{'what decides the experiment' if undecided else 'all that decides'} is on other metrics: "
            f"{', '.join(left_out)}"
        )
    plan = rollout.model_copy(update={"guardrails": kept, "goal": goal})
    # Not model_copy, which would copy what is cached.
    fields = {name: getattr(experiment, name) for name in Experiment.model_fields}
    trimmed = Experiment.model_validate(
        {**fields, "salt": experiment.public_salt, "secret_salt": None, "rollout": plan}
    )
    return Playable(trimmed, tuple(left_out))
