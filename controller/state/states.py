"""The state of every rollout, one file each in ``rollouts/``: written as a whole, under a lock, with a previous copy.

A state holds only what must never be lost, and changes with a stage, a phase or weights. What changes at every tick is
in :mod:`controller.state.evidence`. Used by :mod:`controller.rollout`.

The first line of a file has a hash of all that follows, so that a single damaged byte is noticed, and the file is JSON
as a whole. A damaged one is one rollout's trouble: its previous copy takes its place, if that is whole. That repeats no
step, because the copy before a finished change holds the change's intent, and finishing it again finds every step done.

Versions up to 0.1 kept all states in one ``state.json``; see :meth:`StateStore.migrate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError
from xxhash import xxh3_64_hexdigest

from abmesh.experiment.errors import StateError
from controller.records import ExperimentState, Record
from controller.state.locks import (
    LOCK_SECONDS,
    exclusive,
    failure,
    make_folder,
    make_subfolder,
    read_file,
    replace_file,
)

FOLDER: Final = "rollouts"
LOCK_FILE: Final = "state.lock"

_ENDING: Final = ".json"
_PREVIOUS: Final = ".previous"
_DAMAGED: Final = ".damaged"

_OLD: Final = "state.json"
_MIGRATED: Final = "state.json.migrated"

_HEAD: Final = re.compile(rb'\{"hash": "([0-9a-f]{16})",\n')


class _Kept(Record):
    version: Literal[2] = 2
    experiment: str
    state: ExperimentState


class _OldStates(Record):
    """The content of ``state.json``."""

    version: Literal[1] = 1
    revision: int = 0
    experiments: dict[str, ExperimentState] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class States:
    """What is on disk.

    Attributes:
        experiments: each rollout's state, by the experiment's name. One that is removed from the document stays here,
            in case it comes back.
        restored: those that come from the previous copy, and why.
        damaged: those that cannot be read, and why.
        old: why ``state.json`` of an earlier version cannot be read: nobody knows which experiments are in it.
    """

    experiments: dict[str, ExperimentState] = field(default_factory=dict)
    restored: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    old: str = ""

    def damage(self, experiment: str) -> str:
        """Why an experiment's state cannot be read; empty if it can, or if there is none."""
        return "" if experiment in self.experiments else self.damaged.get(experiment, self.old)

    def get(self, experiment: str) -> ExperimentState | None:
        """An experiment's state; None if it has none yet.

        Raises:
            StateError: it is damaged. It is never taken for none, which would silently restart the rollout.
        """
        if damage := self.damage(experiment):
            raise StateError(damage)
        return self.experiments.get(experiment)


class StateStore:
    """The states in one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, experiment: str) -> Path:
        """The file of an experiment's state."""
        return self.folder / FOLDER / f"{experiment}{_ENDING}"

    def place(self, experiment: str) -> str:
        """The same, for messages."""
        return str(self.path(experiment))

    def read(self) -> States:
        """Read all states; none if there is no file yet. One that is damaged does not keep the others from being read.

        Raises:
            StateError: the folder cannot be read.
        """
        old = self._read_old()  # first: while they are being moved, both this and the files have all of them
        experiments: dict[str, ExperimentState] = {}
        restored: dict[str, str] = {}
        damaged: dict[str, str] = {}
        for name in self._names():
            path = self.path(name)
            found, previous = _load(path, name), None
            if not isinstance(found, ExperimentState):
                previous = _load(_beside(path, _PREVIOUS), name)
            if isinstance(found, ExperimentState):
                experiments[name] = found
            elif isinstance(previous, ExperimentState):
                experiments[name] = previous
                restored[name] = f"{path}: {found}; its previous copy is whole and takes its place"
            else:
                damaged[name] = (
                    f"{path}: {found}, and so is its previous copy; {name} does not move, but harm is still rolled "
                    f"back. Restore the file from a backup, or move both away: then {name} is manual and waits for "
                    f"abmesh resume. To take all users off its candidate, run abmesh weights {name} CANDIDATE=0"
                )
        if isinstance(old, str):
            return States(experiments, restored, damaged, old)
        others = {name: state for name, state in old.items() if name not in experiments and name not in damaged}
        return States(experiments | others, restored, damaged)

    @contextmanager
    def locked(self, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Keep every other process from changing the state. Do not nest.

        Args:
            timeout: seconds to wait for another process.

        Raises:
            StateError: the lock was not released in time, or cannot be taken.
        """
        make_folder(self.folder)
        with exclusive(self.folder / LOCK_FILE, timeout=timeout):
            yield

    def write(self, experiment: str, state: ExperimentState) -> None:
        """Store one experiment's state durably. Call this only inside :meth:`locked`.

        Raises:
            StateError: it cannot be written.
        """
        path = self.path(experiment)
        make_subfolder(path.parent)
        try:
            present = read_file(path)
        except FileNotFoundError:
            present = b""
        if present:
            whole = isinstance(_parse(present, experiment), ExperimentState)
            replace_file(_beside(path, _PREVIOUS if whole else _DAMAGED), present)
        replace_file(path, _dump(experiment, state))

    def migrate(self, timeout: float = LOCK_SECONDS) -> str:
        """Give every state of ``state.json`` a file of its own, and put that file aside.

        A file of its own counts, once it is there; so whoever is killed in the middle begins again.

        Args:
            timeout: seconds to wait for another process.

        Returns:
            What was done, as a sentence; empty if there was nothing to do.

        Raises:
            StateError: a file cannot be written, or ``state.json`` is damaged.
        """
        old = self.folder / _OLD
        if not old.exists():
            return ""
        with self.locked(timeout):
            try:
                found = _parse_old(read_file(old), old)
            except FileNotFoundError:
                return ""
            for name, state in found.experiments.items():
                if not self.path(name).exists() and not _beside(self.path(name), _PREVIOUS).exists():
                    self.write(name, state)
            try:
                old.replace(self.folder / _MIGRATED)
            except OSError as error:
                raise failure(old, "put aside", error) from error
        return f"{old}: the state of each experiment is in a file of its own now, under {self.folder / FOLDER}"

    def _names(self) -> list[str]:
        """Experiments with a file, or with a previous copy of one."""
        folder = self.folder / FOLDER
        try:
            files = sorted(path.name.removesuffix(_PREVIOUS) for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise failure(folder, "read", error) from error
        return list(dict.fromkeys(name.removesuffix(_ENDING) for name in files if name.endswith(_ENDING)))

    def _read_old(self) -> dict[str, ExperimentState] | str:
        """The states in ``state.json``; why it cannot be read, if so."""
        path = self.folder / _OLD
        try:
            return _parse_old(read_file(path), path).experiments
        except FileNotFoundError:
            return {}
        except StateError as error:
            return str(error)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _dump(experiment: str, state: ExperimentState) -> bytes:
    text = _Kept(experiment=experiment, state=state).model_dump_json(indent=1).encode() + b"\n"
    rest = text.removeprefix(b"{\n")
    return b'{"hash": "%s",\n' % xxh3_64_hexdigest(rest).encode() + rest


def _load(path: Path, experiment: str) -> ExperimentState | str:
    """A state from its file; what is wrong if there is none."""
    try:
        return _parse(read_file(path), experiment)
    except FileNotFoundError:
        return "missing"
    except StateError as error:
        return str(error).removeprefix(f"{path}: ")


def _parse(content: bytes, experiment: str) -> ExperimentState | str:
    head = _HEAD.match(content)
    if head is None or xxh3_64_hexdigest(content[head.end() :]).encode() != head[1]:
        return "damaged: its content does not match its hash"
    try:
        kept = _Kept.model_validate_json(b"{" + content[head.end() :])
    except ValidationError as error:
        return f"written by another version of abmesh: {_first(error)}"
    return kept.state if kept.experiment == experiment else f"the state of another experiment, {kept.experiment}"


def _parse_old(content: bytes, path: Path) -> _OldStates:
    try:
        return _OldStates.model_validate_json(content)
    except ValidationError as error:
        raise StateError(
            f"{path}: damaged at {_first(error)}; no rollout that is in it moves, but harm is still rolled back. "
            f"Restore the file from a backup or move it away. Without it, every rollout becomes manual and waits for "
            f"abmesh resume. To take all users off a candidate, run abmesh weights EXPERIMENT CANDIDATE=0"
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{where}: {first['msg']}"
