"""How soon a change shows at Envoy: edits of the document, and a server that dies or hangs.

Called by ``python -m bench``. One client asks all the while, a few hundred times a second; a time ends with the first
answer that shows the change. Everything belongs to one of two variants, so that one answer is enough to tell.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from abmesh.local.model_server import Behaviour
from abmesh.local.processes import Child
from abmesh.local.stack import Stack, StackOptions, fetch
from bench.probe import Probe, ProbeError
from bench.summary import Reaction

A: Final = "model-a"
B: Final = "model-b"
MESSAGE_TIMEOUT: Final = timedelta(milliseconds=500)
_INSTANT: Final = Behaviour(latency_ms=1, spread=0, output_tokens=2)
_LIMIT: Final = 30.0

DOCUMENT: Final = """\
version: 1
experiments:
  - name: chat
    match: {path_prefix: /v1/}
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: model-a, weight: 100, control: true}
      - {name: model-b, cluster: model-b, weight: 0}
"""

_MEANINGS: Final[Mapping[str, str]] = {
    "edit_in_place": "weights edited by hand, written in place -> first request on the new variant",
    "edit_by_rename": "a new file moved over the document -> first request on the new variant",
    "symlink_swap": "a symbolic link swapped as Kubernetes does -> first request on the new variant",
    "weights_command": "`abmesh weights` started -> first request on the new variant",
    "weights_command_written": "the document replaced by `abmesh weights` -> first request on the new variant",
    "broken_edit_reported": "a broken edit -> the server's metrics count it as rejected",
    "killed_restart_command": "the killed server started again -> first assigned request",
    "killed_restart_listening": "the killed server listening again -> first assigned request",
    "hanging_first_answer": "a request sent while the server hangs -> its answer, from the control",
    "hanging_no_more_waiting": "the server hangs -> first unassigned request that is answered within 50 ms",
    "hanging_resumed": "the server goes on -> first assigned request",
}


async def measure(folder: Path, times: int, tell: Callable[[str], None]) -> list[Reaction]:
    """Measure every reaction that needs no controller.

    Args:
        folder: where files go.
        times: how often each is measured.
        tell: shows progress.

    Raises:
        ProbeError: something did not happen at all, or a request failed.
        ProcessError: a program does not start.
    """
    options = StackOptions(models={A: _INSTANT, B: _INSTANT}, interval=None, message_timeout=MESSAGE_TIMEOUT)
    found: dict[str, list[float]] = {name: [] for name in _MEANINGS}

    def note(**seconds: float) -> None:
        for name, value in seconds.items():
            found[name].append(value)
            tell(f"{name}: {value:.3f} s")

    async with Stack(DOCUMENT, options, folder) as stack, Probe(stack.ports["envoy"], "user-1") as probe:
        change = _Changes(stack, probe)
        await probe.until_on(A)
        for _ in range(times):
            note(edit_in_place=await change.after(change.in_place))
            note(edit_by_rename=await change.after(change.by_rename))
            started, written = await change.by_command()
            note(weights_command=started, weights_command_written=written)
            note(broken_edit_reported=await change.broken())
        change.make_symlinks()
        for _ in range(times):
            note(symlink_swap=await change.after(change.by_symlink))
        for _ in range(times):
            command, listening = await _killed(stack, probe)
            note(killed_restart_command=command, killed_restart_listening=listening)
        for _ in range(times):
            first, quick, resumed = await _hanging(stack, probe)
            note(hanging_first_answer=first, hanging_no_more_waiting=quick, hanging_resumed=resumed)
    return [Reaction(name, _MEANINGS[name], tuple(seconds)) for name, seconds in found.items()]


async def at_any_moment() -> None:
    """Wait for a random moment, so that a change meets the server's and Envoy's looks at any point between two."""
    await asyncio.sleep(random.uniform(0.1, 0.6))


class _Changes:
    """Changes of the document, each of which moves everybody to the other variant."""

    def __init__(self, stack: Stack, probe: Probe) -> None:
        self._stack = stack
        self._probe = probe
        self._config = stack.config
        first = self._config.read_text()
        other = first.replace("weight: 100,", "weight: 50,").replace("weight: 0}", "weight: 100}")
        self._texts = {A: first, B: other.replace("weight: 50,", "weight: 0,")}
        self._now = A

    async def after(self, change: Callable[[str], None]) -> float:
        """Seconds from the end of a change to the first request that shows it."""
        await at_any_moment()
        self._now = B if self._now == A else A
        change(self._texts[self._now])
        changed = time.monotonic()
        return (await self._probe.until_on(self._now)).at - changed

    def in_place(self, text: str) -> None:
        self._config.write_text(text)

    def by_rename(self, text: str) -> None:
        replacement = self._config.with_suffix(".new")
        replacement.write_text(text)
        replacement.replace(self._config)

    def make_symlinks(self) -> None:
        """Lay the document out as Kubernetes mounts a ConfigMap: everything behind one link that is swapped."""
        for variant, text in self._texts.items():
            folder = self._config.with_name(f"..{variant}")
            folder.mkdir()
            (folder / self._config.name).write_text(text)
        self._data.symlink_to(f"..{self._now}")
        link = self._config.with_suffix(".link")
        link.symlink_to(f"{self._data.name}/{self._config.name}")
        link.replace(self._config)

    @property
    def _data(self) -> Path:
        return self._config.with_name("..data")

    def by_symlink(self, _text: str) -> None:
        link = self._config.with_name("..data_tmp")
        link.symlink_to(f"..{self._now}")
        link.replace(self._data)

    async def by_command(self) -> tuple[float, float]:
        """Seconds to the first request that shows it: from the command's start, and from the document's writing."""
        await at_any_moment()
        self._now = B if self._now == A else A
        command = [
            sys.executable,
            "-m",
            "abmesh.cli",
            "weights",
            "chat",
            f"{self._now}=100",
            "--config",
            str(self._config),
        ]
        child = Child("abmesh weights", command, self._config.with_name("weights.log"))
        inode = _inode(self._config)
        started = time.monotonic()
        await child.start()
        try:

            async def replaced() -> bool:
                return _inode(self._config) != inode

            written = asyncio.create_task(_moment(replaced, "abmesh weights to write"))
            shown = await self._probe.until_on(self._now)
            return shown.at - started, shown.at - await written
        finally:
            await child.stop()

    async def broken(self) -> float:
        """Seconds from a broken edit until the metrics tell; the good document is put back after."""
        await at_any_moment()
        good = self._config.read_text()
        before = await self._rejected()
        self._config.write_text(good.replace("weight: 100", "weight: 90"))
        changed = time.monotonic()

        async def told() -> bool:
            return await self._rejected() > before

        reported = await _moment(told, "the broken edit to be counted")
        self._config.write_text(good)
        await self._probe.until_on(self._now)
        return reported - changed

    async def _rejected(self) -> float:
        text = await fetch(self._stack.server_metrics) or ""
        name = "abmesh_config_rejected_total "
        return next((float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0.0)


def _inode(file: Path) -> int:
    return file.stat().st_ino


async def _moment(holds: Callable[[], Awaitable[bool]], what: str) -> float:
    """When a condition first held, on the monotonic clock, to a few milliseconds.

    Raises:
        ProbeError: it did not in time.
    """
    deadline = time.monotonic() + _LIMIT
    while not await holds():
        if time.monotonic() > deadline:
            raise ProbeError(f"waited {_LIMIT:g} s in vain for {what}")
        await asyncio.sleep(0.002)
    return time.monotonic()


async def _killed(stack: Stack, probe: Probe) -> tuple[float, float]:
    """Seconds to the first assigned request: from the server's start after a SIGKILL, and from its listening."""
    server = stack.children["ext-proc"]
    await at_any_moment()
    before = await probe.ask()
    await server.kill()
    await probe.until_on("")
    started = time.monotonic()
    await server.start()
    listening = asyncio.create_task(_moment(lambda: _listens(stack.ports["ext_proc"]), "the server to listen"))
    assigned = await probe.until_on(before.variant)
    return assigned.at - started, max(0.0, assigned.at - await listening)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _hanging(stack: Stack, probe: Probe) -> tuple[float, float, float]:
    """A hanging server: seconds of the first answer, until requests no longer wait, and until all is well again."""
    server = stack.children["ext-proc"]
    await at_any_moment()
    before = await probe.ask()
    stopped = time.monotonic()
    server.signal(signal.SIGSTOP)
    try:
        first = await probe.until_on("")
        quick = await probe.until(lambda seen: not seen.variant and seen.seconds < 0.05, "requests that wait no more")
    finally:
        server.signal(signal.SIGCONT)
    continued = time.monotonic()
    assigned = await probe.until_on(before.variant)
    return first.seconds, quick.at - stopped, assigned.at - continued
