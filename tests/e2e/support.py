"""What the end-to-end tests share: documents, requests through Envoy, and waiting for conditions."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from abmesh.cli.json_records import status_json
from abmesh.local.model_server import Behaviour
from abmesh.local.stack import Stack, StackOptions, fetch
from controller.rollout.status import read_status
from controller.settings import Settings

INSTANT = Behaviour(latency_ms=1, spread=0, output_tokens=2)
PATH = "/v1/models"
CHAT = "/v1/chat/completions"
VERSION = "x-model-version"

# Generous: on a busy machine a slow answer of the server must not be taken for a wrong one.
PATIENT = timedelta(seconds=10)


def document(weights: Mapping[str, float], extra: str = "", rollout: str = "") -> str:
    """An experiments document with these variants; the first is the control."""
    variants = "".join(
        f"      - {{name: {name}, cluster: {name}, weight: {weight}, control: {str(index == 0).lower()}}}\n"
        for index, (name, weight) in enumerate(weights.items())
    )
    return f"""\
# A comment that every write must keep.
version: 1
experiments:
  - name: chat
    salt: e2e
    match: {{path_prefix: /v1/}}
    unit:
      - header: x-user-id
      - cookie: llm-session
      - query: user_id
    issue_cookie: {{name: llm-session, max_age: 1h}}
    variants:
{variants}{extra}{rollout}"""


def stack(
    folder: Path,
    text: str,
    *,
    models: Iterable[str] = ("model-a", "model-b"),
    behaviour: Behaviour = INSTANT,
    workers: int = 1,
    transport: str = "",
    tcp: bool = True,
    interval: timedelta | None = None,
    message_timeout: timedelta = PATIENT,
    settle: timedelta = timedelta(milliseconds=500),
) -> Stack:
    """A stack of real processes, to be entered with ``async with``; without a controller unless it has an interval."""
    options = StackOptions(
        models=dict.fromkeys(models, behaviour),
        workers=workers,
        transport=transport,
        tcp=tcp,
        interval=interval,
        settle=settle,
        message_timeout=message_timeout,
    )
    return Stack(text, options, folder)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client saw it."""

    status: int
    variant: str | None
    model: str
    cookies: tuple[str, ...]
    seconds: float


async def ask(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None, path: str = PATH
) -> Answer:
    """Send one request through Envoy; ``model`` is the model server that really answered."""
    started = time.monotonic()
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    sending = (
        session.post(url + path, headers=headers, json=chat)
        if path.startswith(CHAT)
        else session.get(url + path, headers=headers)
    )
    async with sending as response:
        body = await response.text()
    found = json.loads(body) if response.status == 200 else {}
    model = found["data"][0]["id"] if "data" in found else found.get("model", "")
    cookies = tuple(response.headers.getall("set-cookie", ()))
    return Answer(response.status, response.headers.get(VERSION), model, cookies, time.monotonic() - started)


def session() -> aiohttp.ClientSession:
    """A client without a cookie jar."""
    timeout = aiohttp.ClientTimeout(total=60)
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout)


async def ask_all(url: str, users: Iterable[str], concurrency: int = 16) -> dict[str, Answer]:
    """One request of every user, who is known by a header."""
    waiting = iter(list(users))
    answers: dict[str, Answer] = {}

    async def worker(client: aiohttp.ClientSession) -> None:
        for user in waiting:
            answers[user] = await ask(client, url, {"x-user-id": user})

    async with session() as client, asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(worker(client))
    return answers


async def abmesh(*arguments: str, config: Path | None = None, stdin: str = "") -> tuple[int, str, str]:
    """Run the command line as a user does; exit code, standard output, standard error."""
    command = [sys.executable, "-m", "abmesh.cli", *arguments]
    if config is not None:
        command += ["--config", str(config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate(stdin.encode())
    return process.returncode or 0, output.decode(), errors.decode()


async def predicted(config: Path, users: Iterable[str]) -> dict[str, str]:
    """The variant that ``abmesh assign`` predicts for every user."""
    code, output, errors = await abmesh(
        "assign", "chat", "--units-from", "-", "--json", config=config, stdin="\n".join(users)
    )
    assert code == 0, errors
    return {record["unit"]: record["variant"] for record in map(json.loads, output.splitlines())}


async def status(running: Stack) -> dict[str, Any]:
    """What ``abmesh status --json`` says of the one experiment, without the time that a new process takes."""
    settings = Settings(config=running.config, state_dir=running.state)
    return status_json(read_status(settings)[0])


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float = 30.0, pause: float = 0.05) -> float:
    """Wait until the condition holds; the seconds that it took. Fails with the condition's last value."""
    started = time.monotonic()
    while not (value := await condition()):
        assert time.monotonic() - started < seconds, f"not within {seconds} s; last value: {value!r}"
        await asyncio.sleep(pause)
    return time.monotonic() - started


async def envoy_stats(running: Stack, pattern: str) -> dict[str, int]:
    """Envoy's counters and gauges whose name matches, by name."""
    text = await fetch(f"{running.admin}/stats?format=json&filter={pattern}")
    assert text is not None, "Envoy's admin endpoint does not answer"
    return {stat["name"]: stat["value"] for stat in json.loads(text)["stats"] if "name" in stat and "value" in stat}


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels, from Prometheus' text form."""
    total = 0.0
    for line in text.splitlines():
        if not line.startswith((f"{name}{{", f"{name} ")):
            continue
        if all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


async def in_state(running: Stack, wanted: str, seconds: float = 60.0) -> dict[str, Any]:
    """Wait for a state of the rollout; what ``abmesh status --json`` then says."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await status(running))
        return bool(found["state"] == wanted)

    await eventually(there, seconds)
    return found
