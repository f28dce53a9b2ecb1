"""What an operator's command is about to do, for whoever confirms it. Pure.

:mod:`controller.rollout.commands` shows it; the command line asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Cluster
from controller.records import ExperimentState


@dataclass(frozen=True, slots=True)
class Preview:
    """What a command is about to do, and to what.

    Attributes:
        experiment: as the document has it.
        clusters: the document's.
        state: of the rollout.
        after: the candidate's weight after the command, in basis points.
    """

    experiment: Experiment
    clusters: Mapping[str, Cluster] | None
    state: ExperimentState
    after: int


Confirm = Callable[[Preview], None]
"""Looks at a preview before anything is done; raises to have nothing done."""


def outline(experiment: Experiment, state: ExperimentState | None) -> tuple[object, ...]:
    """What must stay as it was shown."""
    return experiment.weights, experiment.rollout, state and state.phase, state and state.stage.id
