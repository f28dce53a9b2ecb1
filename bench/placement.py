"""Which CPUs run what: load generator and upstream here, Envoy and server there, the same for every contender.

Otherwise the load generator competes with what it measures, and the more so the faster that is. Called by
:mod:`bench.contenders` and the modules that start programs for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_LAUNCH: Final = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execvp(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """CPUs by number; empty: wherever the system likes.

    Attributes:
        load: of the load generator and the upstream.
        tested: of Envoy and the server.
    """

    load: tuple[int, ...] = ()
    tested: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.tested:
            return "not pinned"
        return f"load and upstream on CPU {_text(self.load)}, Envoy and server on CPU {_text(self.tested)}"


def _text(cpus: Sequence[int]) -> str:
    return ",".join(map(str, cpus))


def split(cpus: Sequence[int]) -> Placement:
    """One half for the load, the other for what is tested; of a single CPU nothing can be split."""
    half = len(cpus) // 2
    return Placement(tuple(cpus[:half]), tuple(cpus[half:])) if half else Placement()


def of_this_machine() -> Placement:
    """The placement on the CPUs that this process may use."""
    return split(sorted(os.sched_getaffinity(0)))


def placed(cpus: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command that runs a command, and all that it starts, on some CPUs, under the same process id."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, _text(cpus), *command] if cpus else list(command)


@contextmanager
def here(cpus: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread on some CPUs for as long as the block runs."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
