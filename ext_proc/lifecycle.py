"""What the processes of a server share: signals, background tasks, logging and garbage collection.

:mod:`ext_proc.server`, :mod:`ext_proc.serving` and :mod:`ext_proc.workers` use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

from abmesh.experiment.store import format_generation

T = TypeVar("T")

_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""Thresholds of the three generations for ``gc.set_threshold``; Python's defaults are 700, 10 and 10."""


class Signals:
    """SIGTERM and SIGINT as events.

    Attributes:
        stop: set by the first signal: drain, then exit.
        now: set by the second signal: exit at once.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """Handle a signal, or another reason to stop."""
        (self.now if self.stop.is_set() else self.stop).set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the process's signals while the context lasts."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run a coroutine in the background of the body, and cancel it when the body is done.

    Raises:
        Exception: what the coroutine raised, once the body is done.
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def either(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of several coroutines is done, and cancel the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


def spare_garbage_collection() -> None:
    """Exclude everything loaded so far from garbage collection, and collect less often.

    A request leaves no reference cycles behind. But a full collection goes through every module and the whole document,
    which takes tens of milliseconds, and requests wait meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def log_to_stderr(name: str) -> None:
    """Log to stderr under a name, one line per record, unless the calling program has set up its own logging."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {name}: %(message)s", stream=sys.stderr)
    # grpc logs tracebacks of streams that the peer broke off; our own errors are counted.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def ready_line(addresses: Sequence[str], metrics: str | None, generation: int | None) -> str:
    """The line that a server logs once it serves."""
    shown = "none, so health is NOT_SERVING" if generation is None else format_generation(generation)
    on = f", metrics on {metrics}" if metrics else ""
    return f"serving on {', '.join(addresses)}{on}, generation {shown}"
