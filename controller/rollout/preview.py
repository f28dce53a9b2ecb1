"""What an operator's command is about to do, for whoever confirms it. Pure.

:mod:`controller.rollout.commands` and :mod:`controller.cluster.asking` show it; the command line asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Cluster
from abmesh.experiment.store import Snapshot
from controller.records import ExperimentState, Phase, adopt
from controller.rollout.operations import Decide, candidate_of, with_rollout


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


def look(
    snapshot: Snapshot,
    state: ExperimentState | None,
    name: str,
    decide: Decide,
    confirm: Confirm,
    now: datetime,
) -> tuple[object, ...]:
    """Have a command confirmed; what the rollout was like then.

    Raises:
        UnknownName: the document does not have the experiment.
        RefusedError: its state does not allow the command, or it was not confirmed.
    """
    experiment = with_rollout(snapshot, name)
    before = state or adopt(experiment, Phase.PROGRESSING, "", now)
    target = decide(experiment, before).target
    after = experiment.weights[candidate_of(experiment)] if target is None else target
    confirm(Preview(experiment, snapshot.document.clusters, before, after))
    return outline(experiment, state)
