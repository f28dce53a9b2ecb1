"""Where a server gets its experiments from: a file, or a cluster.

:mod:`ext_proc.snapshot` follows a :class:`Source`; :class:`abmesh.experiment.store.FileStore` and
:class:`abmesh.kube.store.KubeStore` are ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from abmesh.experiment.store import Rejected, Snapshot


@dataclass(frozen=True, slots=True)
class Trouble:
    """Changes cannot be followed, or can be again; what is in force stays.

    Attributes:
        message: why, as a sentence without a full stop; empty once they can be followed again.
    """

    message: str


State: TypeAlias = Snapshot | Rejected | Trouble


class Source(Protocol):
    """Something that holds experiments and changes."""

    def watch(self) -> AsyncIterator[State]:
        """What is there now, and again whenever it changes; never ends."""
