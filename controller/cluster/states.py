"""The state of every rollout, from Experiments' statuses. Implements :class:`controller.state.ports.StateReader`."""

from __future__ import annotations

from collections.abc import Mapping

from abmesh.experiment.errors import StateError, StoreError
from controller.cluster.objects import Experiments, Thing
from controller.cluster.status import state_of
from controller.records import ExperimentState
from controller.state.states import States


class ClusterStates:
    """Reads states.

    Args:
        experiments: as they are now.
    """

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments

    def read(self) -> States:
        """See :meth:`controller.state.ports.StateReader.read`."""
        try:
            things = self._experiments.all()
        except StoreError as error:
            raise StateError(str(error)) from error
        return states_of(things)

    def migrate(self, timeout: float) -> str:  # noqa: ARG002 - the interface has it
        """Nothing: an object's versions are the API server's to convert."""
        return ""

    def place(self, experiment: str) -> str:
        """See :meth:`controller.state.ports.StateReader.place`."""
        return f"the status of Experiment {experiment}"


def states_of(things: Mapping[str, Thing]) -> States:
    """The states in some Experiments' statuses, by name."""
    found: dict[str, ExperimentState] = {}
    damaged: dict[str, str] = {}
    for name, thing in things.items():
        try:
            state = state_of(thing)
        except StateError as error:
            damaged[name] = str(error)
            continue
        if state is not None:
            found[name] = state
    return States(found, damaged=damaged)
