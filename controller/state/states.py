"""Where rollouts stand, kept in ``state.json``: read whole, written whole, under a lock.

Only what must never be lost is in here; it changes when a stage, a phase or the weights change, not at every tick. What
every tick changes is in :mod:`controller.state.evidence`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from abmesh.experiment.errors import StateError
from controller.records import ExperimentState, Record
from controller.state.locks import exclusive, make_folder, replace_file

STATE_FILE = "state.json"
LOCK_FILE = "state.lock"


class States(Record):
    """The content of ``state.json``.

    Attributes:
        version: of the file's form.
        revision: how often it was written.
        experiments: by name. An experiment that leaves the document stays here, in case it comes back.
    """

    version: Literal[1] = 1
    revision: int = 0
    experiments: dict[str, ExperimentState] = Field(default_factory=dict)


class StateStore:
    """The state file of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / STATE_FILE

    def read(self) -> States:
        """The states; none if there is no file yet.

        Raises:
            StateError: the file cannot be read or is damaged. It is never taken for empty: that would silently start
                every rollout again.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return States()
        except OSError as error:
            raise StateError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            return States.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise StateError(
                f"{self.path}: damaged at {where}: {first['msg']}; no rollout moves until it is restored from a "
                f"backup, or moved away: then every rollout starts as manual and waits for abmesh resume. Meanwhile "
                f"abmesh weights EXPERIMENT CANDIDATE=0 takes all users from a candidate without it"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from changing the state; not to be nested.

        Raises:
            StateError: the lock cannot be had.
        """
        make_folder(self.folder)
        with exclusive(self.folder / LOCK_FILE):
            yield

    def write(self, experiment: str, state: ExperimentState) -> None:
        """Keep one experiment's state, durably. Only inside :meth:`locked`.

        Raises:
            StateError: the file cannot be read or written.
        """
        states = self.read()
        experiments = {**states.experiments, experiment: state}
        changed = States(revision=states.revision + 1, experiments=experiments)
        replace_file(self.path, changed.model_dump_json(indent=1).encode() + b"\n")
