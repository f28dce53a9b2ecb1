"""A real Prometheus server for tests: on a free port, scraping fast, and never left behind.

It runs the example in ``envoy/prometheus/``, so that what is documented is what is tested.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ruamel.yaml import YAML

from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import answers
from tests.paths import ROOT

EXAMPLE = ROOT / "envoy" / "prometheus"
ALERTS = EXAMPLE / "alerts.yaml"


def need_prometheus() -> None:
    """Skip the test where there is no Prometheus."""
    missing = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"NOT TESTED, for there is no {' and no '.join(missing)}: it needs Debian's package prometheus, which "
            "make test installs where it runs as root"
        )


@dataclass
class Prometheus:
    """A running server."""

    url: str
    process: Child

    async def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query; at a time in Unix time, or now."""
        asked = {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"})
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/query", params=asked) as response,
        ):
            body = await response.json()
        assert body["status"] == "success", (expression, body)
        found: list[dict[str, Any]] = body["data"]["result"]
        return found

    async def value(self, expression: str, at: float | None = None) -> float:
        """The sum of the values of an instant query."""
        return sum(float(series["value"][1]) for series in await self.query(expression, at))


def configured(folder: Path, targets: Mapping[str, str], interval: str) -> Path:
    """The example with other targets, by job, and another interval; its path."""
    yaml = YAML(typ="safe")
    config = yaml.load((EXAMPLE / "prometheus.yaml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), interval)
    assert {job["job_name"] for job in config["scrape_configs"]} >= set(targets)
    config["scrape_configs"] = [
        job | {"static_configs": [{"targets": [targets[job["job_name"]]]}]}
        for job in config["scrape_configs"]
        if job["job_name"] in targets
    ]
    folder.mkdir()
    path = folder / "prometheus.yaml"
    path.write_text(json.dumps(config))
    shutil.copy(ALERTS, folder)
    return path


@asynccontextmanager
async def prometheus(folder: Path, targets: Mapping[str, str], interval: str = "1s") -> AsyncIterator[Prometheus]:
    """Run a server.

    Args:
        folder: for its files.
        targets: ``HOST:PORT`` by the job's name in the example.
        interval: between two scrapes.
    """
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={configured(folder, targets, interval)}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    child = Child("prometheus", command, folder / "prometheus.log")
    found = Prometheus(f"http://127.0.0.1:{port}", child)
    try:
        await child.start()
        await child.wait_until(lambda: answers(f"{found.url}/-/ready"))
        yield found
    finally:
        await child.stop()


async def promtool(*arguments: str, given: str = "") -> tuple[int, str]:
    """Run promtool; its exit code and all that it says."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "promtool", *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate(given.encode())
    return process.returncode or 0, said.decode()
