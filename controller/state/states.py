"""The state of every rollout, stored in ``state.json``: read and written as a whole, under a lock.

It holds only what must never be lost, and changes with a stage, a phase or weights. What changes at every tick is in
:mod:`controller.state.evidence`. Used by :mod:`controller.rollout`.
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
        version: of the file's format.
        revision: how often the file was written.
        experiments: each rollout's state, by the experiment's name. One that is removed from the document stays here,
            in case it comes back.
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
        """Read the states; empty if there is no file yet.

        Raises:
            StateError: the file cannot be read or is damaged. It is never taken for empty, which would silently restart
                every rollout.
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
                f"{self.path}: damaged at {where}: {first['msg']}; no rollout moves until you restore the file from a "
                f"backup or move it away. Without it, every rollout becomes manual and waits for abmesh resume. To "
                f"take all users off a candidate in the meantime, run abmesh weights EXPERIMENT CANDIDATE=0"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from changing the state. Do not nest.

        Raises:
            StateError: the lock was not released in time, or cannot be taken.
        """
        make_folder(self.folder)
        with exclusive(self.folder / LOCK_FILE):
            yield

    def write(self, experiment: str, state: ExperimentState) -> None:
        """Store one experiment's state durably. Call this only inside :meth:`locked`.

        Raises:
            StateError: the file cannot be read or written.
        """
        states = self.read()
        experiments = {**states.experiments, experiment: state}
        changed = States(revision=states.revision + 1, experiments=experiments)
        replace_file(self.path, changed.model_dump_json(indent=1).encode() + b"\n")
