"""Records what a busy sidecar's Envoy answers: ``python -m bench.recording``, in about a minute.

A real Envoy with abmesh's own statistics serves ten experiments of two variants and draws variant and slice at random.
Behind it an Envoy with the fault filter gives every request the latency and the code that the load generator asks for:
latencies are log-normal, with medians from 120 ms to 1.2 s as those of models are, and 2% of the answers are errors.
What the first one's admin endpoint says then is the recording of which :mod:`bench.fleet` makes a fleet.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import random
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from abmesh.experiment.model import Document
from abmesh.local.processes import Child, find_envoy, free_ports
from abmesh.local.stack import answers, fetch
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from bench import envoys
from bench.load import request_of, run_load
from controller.sources.envoy_admin import QUERY

EXPERIMENTS: Final = 10
MEDIANS_MS: Final = (120, 1200)
SIGMA: Final = 0.45
"""Of the logarithm of a latency: the 95th percentile is about twice the median."""

ERRORS: Final = (500, 502, 503)
REQUESTS: Final = 40_000
FOLDER: Final = Path(__file__).with_name("recorded")
_SEED: Final = 3


def document(upstream: int) -> Document:
    """Ten experiments of two variants, each on a path of its own; ``upstream`` is the models' port."""
    experiments = [
        {
            "name": f"experiment-{number}",
            "match": {"path_prefix": f"/{number}"},
            "unit": [{"header": "x-user-id"}],
            "variants": [
                {"name": "model-a", "cluster": "model-a", "weight": 75, "control": True},
                {"name": "model-b", "cluster": "model-b", "weight": 25},
            ],
        }
        for number in range(EXPERIMENTS)
    ]
    clusters = {name: {"host": "127.0.0.1", "port": upstream} for name in ("model-a", "model-b")}
    return Document.model_validate({"version": 1, "clusters": clusters, "experiments": experiments})


def bootstrap(served: Document, options: RenderOptions) -> dict[str, Any]:
    """The rendered Envoy, with Envoy itself in the place of our server,"""
    rendered = render_bootstrap(served, options)
    routes = []
    for number, experiment in enumerate(served.experiments):
        made = envoys.with_statistics(rendered, experiment)
        (route,) = _manager(made)["route_config"]["virtual_hosts"][0]["routes"]
        routes.append({**route, "match": {"path": f"/{number}"}})
    manager = _manager(made)
    manager["route_config"]["virtual_hosts"][0]["routes"] = routes
    # It would take the headers that the models are asked with.
    manager.pop("early_header_mutation_extensions")
    return made


def models(listen: int, admin: int) -> dict[str, Any]:
    """An upstream that answers as late, and with the code, that a request's headers ask for."""
    made = envoys.answering(listen, admin)
    fault = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
        "abort": {"header_abort": {}, "percentage": {"numerator": 100}},
        "max_active_faults": 100_000,
    }
    _manager(made)["http_filters"].insert(0, {"name": "envoy.filters.http.fault", "typed_config": fault})
    return made


def requests(count: int, seed: int = _SEED) -> list[bytes]:
    """Requests that ask for their own latency, and 2% of them for an error."""
    rng = random.Random(seed)
    low, high = map(math.log, MEDIANS_MS)
    made = []
    for _ in range(count):
        number = rng.randrange(EXPERIMENTS)
        median = low + (high - low) * number / (EXPERIMENTS - 1)
        headers = [f"x-envoy-fault-delay-request: {max(1, round(rng.lognormvariate(median, SIGMA)))}"]
        if rng.random() < 0.02:
            headers.append(f"x-envoy-fault-abort-request: {rng.choice(ERRORS)}")
        made.append(request_of(f"/{number}", headers))
    return made


async def record(count: int, folder: Path) -> tuple[str, str]:
    """What a real Envoy answers after a number of requests: as the controller asks it, and as JSON.

    Raises:
        RuntimeError: a request ended otherwise than it asked for.
    """
    async with AsyncExitStack() as stack:
        listen, admin, upstream, upstream_admin = free_ports(4)
        options = RenderOptions(listen=f"127.0.0.1:{listen}", admin=f"127.0.0.1:{admin}", warmup="")
        await _start("models", models(upstream, upstream_admin), upstream_admin, folder, stack)
        await _start("sidecar", bootstrap(document(upstream), options), admin, folder, stack)
        result = await run_load(listen, requests(count), count=count, connections=min(count, 400), seconds=300)
        if strange := set(result.statuses) - {200, *ERRORS}:
            raise RuntimeError(f"answers with {strange}; allowed: 200 and {ERRORS}")
        await asyncio.sleep(3 * options.stats_flush_interval.total_seconds())  # histograms show after a flush
        stats = f"http://127.0.0.1:{admin}/stats?{urlencode(QUERY)}"
        text, as_json = await fetch(stats), await fetch(f"{stats}&format=json")
        assert text is not None
        assert as_json is not None
        return text, as_json


def _manager(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


async def _start(name: str, made: dict[str, Any], admin: int, folder: Path, stack: AsyncExitStack) -> None:
    config = folder / f"{name}.yaml"
    config.write_text(to_yaml(made))
    command = [find_envoy(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    child = Child(name, command, folder / f"{name}.log")
    stack.push_async_callback(child.stop)
    await child.start()
    await child.wait_until(lambda: answers(f"http://127.0.0.1:{admin}/ready"))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="abmesh-recording-") as name:
        text, as_json = asyncio.run(record(REQUESTS, Path(name)))
    FOLDER.mkdir(exist_ok=True)
    for suffix, content in (("txt", text), ("json", as_json)):
        (FOLDER / f"answer.{suffix}.gz").write_bytes(gzip.compress(content.encode(), mtime=0))


if __name__ == "__main__":
    main()
