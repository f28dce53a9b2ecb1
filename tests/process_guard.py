"""Fails a test that starts a process without ``@pytest.mark.process``, so that ``make check`` stays fast.

``tests/conftest.py`` loads it. The guard listens to the interpreter's audit events, so it sees every way to start a
process: ``subprocess``, ``asyncio``, ``os.fork``, and, by a wrapper of its own, ``multiprocessing``'s spawn.
"""

from __future__ import annotations

import multiprocessing.util
import sys
from collections.abc import Generator, Sequence
from typing import Any

import pytest

_FONTS = "fc-list"
"""Matplotlib runs it once on a machine that has it, in whichever test draws first."""

_EVENTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})


class ProcessGuard:
    """Pytest plugin. An audit hook cannot be removed, so create one guard per interpreter."""

    def __init__(self) -> None:
        self._unmarked: pytest.Item | None = None
        self._complaint = ""
        sys.addaudithook(self._audit)
        self._watch_multiprocessing()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._complaint = ""
        self._unmarked = None if item.get_closest_marker("process") else item
        try:
            return (yield)
        finally:
            self._unmarked = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        result = yield
        # The code under test may have caught the failure, or it happened in a thread that nobody joined.
        if self._complaint:
            pytest.fail(self._complaint)
        return result

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._unmarked is not None and event in _EVENTS and not _looks_for_fonts(event, arguments):
            self._complain(" ".join(map(str, arguments[1])) if event == "subprocess.Popen" else event)

    def _watch_multiprocessing(self) -> None:
        spawn = multiprocessing.util.spawnv_passfds

        def watched(path: bytes, args: Any, passfds: Sequence[int]) -> int:
            if self._unmarked is not None:
                self._complain("multiprocessing")
            return spawn(path, args, passfds)

        multiprocessing.util.spawnv_passfds = watched

    def _complain(self, what: str) -> None:
        assert self._unmarked is not None
        self._complaint = (
            f"{self._unmarked.nodeid} starts a process ({what:.120}) but is not marked as one that does. "
            "Mark the test with @pytest.mark.process, or its module with pytestmark, so that `make check` skips it."
        )
        pytest.fail(self._complaint)


def _looks_for_fonts(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "subprocess.Popen" and arguments[1][0] == _FONTS
