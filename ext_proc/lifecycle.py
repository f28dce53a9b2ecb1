"""How the processes of a server are told to stop, and the tasks that run beside the main one.

:mod:`ext_proc.server`, :mod:`ext_proc.worker` and :mod:`ext_proc.supervisor` share this.
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
"""New objects before a look at the youngest, and looks before one at the older ones; Python's are 700, 10 and 10."""


class Signals:
    """What SIGTERM and SIGINT ask for.

    Attributes:
        stop: set by the first of them: drain, then exit.
        now: set by the second: exit at once.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """One more request to stop."""
        (self.now if self.stop.is_set() else self.stop).set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to the process's signals while the context lasts."""
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
    """Run something beside the body, and cancel it when the body is done.

    Raises:
        Exception: whatever the work raised, once the body is done.
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def either(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of several is done, and cancel the others."""
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
    """Keep the collector of reference cycles off what lives as long as the process, and let it look less often.

    A request leaves no cycles behind. But the collector goes through every module and the whole document each time
    that it looks at the oldest objects, which takes tens of milliseconds, during which requests wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def log_to_stderr(name: str) -> None:
    """Log one line per event on stderr under a name, unless the program around us has set up its own logging."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s {name}: %(message)s", stream=sys.stderr)
    # What grpc logs are tracebacks of streams that the other side broke off; our own errors are counted.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def ready_line(addresses: Sequence[str], metrics: str | None, generation: int | None) -> str:
    """What a server says once it serves."""
    shown = "none, so health is NOT_SERVING" if generation is None else format_generation(generation)
    on = f", metrics on {metrics}" if metrics else ""
    return f"serving on {', '.join(addresses)}{on}, generation {shown}"
