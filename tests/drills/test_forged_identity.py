"""The law is public, so a client that may choose its identity can search for one that gets the variant it wants.

Two cures: cookies that only our server can write, and a salt that only our processes know.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from abmesh.experiment.bucketing import bucket_of, cells, initial_ranges
from abmesh.local.stack import Stack, StackOptions, fetch
from tests.abmesh.cli.calls import call
from tests.drills.report import Drill
from tests.e2e import support

pytestmark = pytest.mark.envoy

PLACES = cells(initial_ranges({"model-a": 5000, "model-b": 5000}), 50)
CLICK = "/_ab/events/click"
ISSUED = re.compile(r"sid=([0-9a-f]{32})\.([A-Za-z0-9_-]{22});.*HttpOnly")


def document(lane: str, law: str, keys: Iterable[Path] = ()) -> str:
    """Half and half, by a header or by a cookie that is authenticated with keys in these files."""
    listed = ", ".join(f"{{file: {path}}}" for path in keys)
    issue = "{name: sid, max_age: 1h" + (f", keys: [{listed}]" if listed else "") + "}"
    return f"""\
version: 1
experiments:
  - name: chat
    {law}
    match: {{path_prefix: /v1/}}
    lane: {lane}
    unit: [{{header: x-user-id}}, {{cookie: sid}}]
    issue_cookie: {issue}
    variants:
      - {{name: model-a, cluster: model-a, weight: 50, control: true}}
      - {{name: model-b, cluster: model-b, weight: 50}}
    events: [click]
"""


ROLLOUT = """\
    rollout:
      candidate: model-b
      steps: [50, 100]
      stage: {min_duration: 1h, min_requests: 1000}
      guardrails: [{metric: error_rate, max: 5%}]
"""


def variant_of(identity: str, salt: str) -> str:
    return PLACES[bucket_of(salt, identity.encode())].variant


def chosen(wanted: str, salt: str) -> str:
    """What an attacker does at home: draw identities until one gets the variant."""
    return next(made for made in iter(lambda: secrets.token_hex(16), "") if variant_of(made, salt) == wanted)


@dataclass
class Client:
    """Asks as clients do, and reports."""

    running: Stack
    http: aiohttp.ClientSession
    drill: Drill
    issued: list[str] = field(default_factory=list)

    async def ask(self, cookie: str = "", **headers: str) -> support.Answer:
        told = headers | ({"cookie": cookie} if cookie else {})
        answer = await support.ask(self.http, self.running.url, told)
        self.drill.sent += 1
        self.drill.failed += answer.status != 200
        self.drill.wrong += answer.model != answer.variant
        return answer

    async def gets_a_new_one(self, cookie: str, salt: str = "public") -> str:
        """The new cookie in place of a forged one: a drawn identity, and its own variant."""
        answer = await self.ask(cookie)
        (set_cookie,) = answer.cookies
        found = ISSUED.match(set_cookie)
        assert found is not None, set_cookie
        assert found[1] not in cookie
        assert answer.variant == variant_of(found[1], salt)
        return f"{found[1]}.{found[2]}"

    async def keeps(self, cookie: str, value: str, salt: str = "public") -> None:
        """The cookie's own identity counts, twice: as read, and as remembered."""
        for _ in range(2):
            answer = await self.ask(cookie)
            assert answer.variant == variant_of(value.partition(".")[0], salt)
            assert answer.cookies == ()

    async def click(self, cookie: str) -> int:
        self.drill.sent += 1
        async with self.http.post(self.running.url + CLICK, headers={"cookie": cookie}) as response:
            return response.status


def new_key(path: Path) -> Path:
    path.write_text(f"{secrets.token_hex(32)}\n")
    return path


async def edit(running: Stack, change: Callable[[str], str]) -> None:
    """Change the document, and wait until the server serves it."""
    copy = running.config.with_suffix(".new")
    copy.write_text(change(running.config.read_text()))
    os.replace(copy, running.config)  # noqa: PTH105
    log = running.children["ext-proc"].log
    before = log.read_text().count("document in force")

    async def served() -> bool:
        return log.read_text().count("document in force") > before

    await support.eventually(served)


def forgeries(own: str, wanted: str) -> dict[str, str]:
    """Cookies by which a client with a cookie of its own claims an identity that it has chosen."""
    mac = own.partition(".")[2]
    return {
        "the identity alone": f"sid={wanted}",
        "a made-up mac": f"sid={wanted}.{secrets.token_urlsafe(16)}",
        "another identity's mac": f"sid={wanted}.{mac}",
        "an empty mac": f"sid={wanted}.",
        "truncated": f"sid={wanted}.{mac[:-1]}",
        "longer": f"sid={wanted}.{mac}A",
        "twice": f"sid={wanted}.{mac}; sid={wanted}",
        "own identity with another ending": f"sid={wanted[:-1]}{own[31:]}",
        "bytes": f"sid={wanted}.\xff\xfe{mac[2:]}",
        "own one after too many": "; ".join([f"sid={wanted}.{mac}"] * 4 + [f"sid={own}"]),
    }


@pytest.mark.parametrize("lane", ["ext_proc", pytest.param("native", marks=pytest.mark.soak)])
async def test_nobody_gets_a_variant_by_a_cookie_that_was_not_issued(tmp_path: Path, drill: Drill, lane: str) -> None:
    first, second, foreign = (new_key(tmp_path / name) for name in ("key-1", "key-2", "key-foreign"))
    text = document(lane, "salt: public", [first])
    async with support.stack(tmp_path / "stack", text) as running, support.session() as http:
        client = Client(running, http, drill)
        own = await client.gets_a_new_one("")
        await client.keeps(f"sid={own}", own)
        other = "model-a" if variant_of(own.partition(".")[0], "public") == "model-b" else "model-b"
        wanted = chosen(other, "public")
        for why, cookie in forgeries(own, wanted).items():
            assert await client.gets_a_new_one(cookie) not in cookie, why
            assert await client.click(cookie) == 400, why
        for cookie in (
            f"sid={wanted}; sid={own}",
            f"sid={own}; sid={wanted}.{'A' * 22}",
            f"a=b;sid={wanted}.;  sid={own}",
        ):
            await client.keeps(cookie, own)
        assert await client.click(f"sid={own}") == 204
        assert (await client.ask(f"sid={wanted}", **{"x-user-id": "alice"})).variant == variant_of("alice", "public")

        # The keys rotate: nobody moves. A cookie that was remembered as valid is forgotten with its key.
        await edit(running, lambda old: old.replace(f"[{{file: {first}}}]", f"[{{file: {second}}}, {{file: {first}}}]"))
        await client.keeps(f"sid={own}", own)
        newer = await client.gets_a_new_one("")
        await edit(running, lambda old: old.replace(f", {{file: {first}}}", ""))
        await client.keeps(f"sid={newer}", newer)
        await client.gets_a_new_one(f"sid={own}")

        # A key file changes under the same document: whoever knew the old key knows nothing.
        second.write_text(foreign.read_text())
        log = running.children["ext-proc"].log

        async def noticed() -> bool:
            return "secret changed: chat: issue_cookie.keys[0]: file" in log.read_text()

        await support.eventually(noticed)
        await client.gets_a_new_one(f"sid={newer}")

        async def counted() -> dict[str, int]:
            return await support.envoy_stats(running, r"^abmesh\.events\.")

        await support.eventually(counted)
        assert sum((await counted()).values()) == 1
        page = await fetch(running.server_metrics) or ""
        drill.operator_reads(*(line for line in page.splitlines() if re.search(r'reason="(re|event_forged)', line)))
        drill.operator_reads(*(line for line in log.read_text().splitlines() if "secret changed" in line))
        said = call("validate", "--config", str(running.config)).out
        drill.operator_reads(*said.splitlines())
        assert "x-user-id" in said
        assert ("cannot verify" in said) == (lane == "native")
        assert _holders(running, page + said, [first, second, foreign]) == set()
    assert (drill.failed, drill.wrong) == (0, 0)


def _holders(running: Stack, shown: str, files: Iterable[Path]) -> set[str]:
    """Where the secrets of these files appear, among all files of the stack and what was shown."""
    hidden = [path.read_text().strip() for path in files]
    texts = {path.name: path.read_text(errors="replace") for path in running.folder.rglob("*") if path.is_file()}
    return {name for name, text in (texts | {"shown": shown}).items() if any(secret in text for secret in hidden)}


@pytest.mark.parametrize("lane", ["ext_proc", pytest.param("native", marks=pytest.mark.soak)])
async def test_a_secret_salt_makes_the_law_useless_at_home(tmp_path: Path, drill: Drill, lane: str) -> None:
    file = new_key(tmp_path / "salt")
    text = document(lane, f"secret_salt: {{file: {file}}}") + ROLLOUT
    users = [f"user-{number}" for number in range(20)]
    options = StackOptions(
        models=dict.fromkeys(("model-a", "model-b"), support.INSTANT),
        interval=timedelta(milliseconds=300),
        settle=timedelta(milliseconds=100),
        message_timeout=support.PATIENT,
        routes_file=lane == "native",
    )
    async with Stack(text, options, tmp_path / "stack") as running, support.session() as http:
        client = Client(running, http, drill)
        for salt in (file.read_text().strip(), secrets.token_hex(32)):
            file.write_text(salt)
            expected = {user: variant_of(user, salt) for user in users}

            async def arrived(expected: dict[str, str] = expected) -> bool:
                found = {user: (await client.ask(**{"x-user-id": user})).variant for user in users}
                return found == expected

            await support.eventually(arrived)
            assert [expected[user] for user in users] != [variant_of(user, "chat") for user in users]
        config = str(running.config)
        explained = call("assign", "chat", "--unit", "user-1", "--config", config).out
        assert expected["user-1"] in explained
        _, rendered, warned = astuple(call("render", "envoy", "--config", config))
        told = json.dumps(await support.status(running)) + (await fetch(f"{running.controller_url}/metrics") or "")

        async def recorded() -> bool:
            return any(path.stat().st_size for path in running.state.rglob("*journal*"))

        await support.eventually(recorded)
        page = await fetch(running.server_metrics) or ""
        holders = _holders(running, page + explained + warned + told, [file])
        if lane == "native":
            assert holders == {"routes.json"}
            assert running.routes_file.stat().st_mode & 0o777 == 0o600
            assert salt in rendered
            assert "holds chat: secret_salt" in warned
        else:
            assert (holders, salt in rendered) == (set(), False)
        drill.operator_reads(*(explained + warned).splitlines())
        log = running.children["ext-proc"].log.read_text()
        drill.operator_reads(*(line for line in log.splitlines() if "secret changed" in line))
        assert "every user of this experiment is assigned anew" in log
    assert (drill.failed, drill.wrong) == (0, 0)


async def test_without_its_secret_the_server_assigns_nobody_and_says_why(tmp_path: Path, drill: Drill) -> None:
    file = new_key(tmp_path / "salt")
    async with support.stack(tmp_path / "stack", document("ext_proc", f"secret_salt: {{file: {file}}}")) as running:
        file.write_text("short\n")
        log = running.children["ext-proc"].log

        async def refused() -> bool:
            return "fewer than 32 characters" in log.read_text()

        await support.eventually(refused)
        async with support.session() as http:
            client = Client(running, http, drill)
            assert (await client.ask(**{"x-user-id": "alice"})).variant in ("model-a", "model-b"), "the last good stays"
            await running.children["ext-proc"].stop()
            await running.children["ext-proc"].start()

            async def says_so() -> bool:
                return "no valid document yet" in log.read_text()

            await support.eventually(says_so)
            answer = await support.ask(http, running.url, {"x-user-id": "alice"})
            assert (answer.status, answer.variant, answer.model) == (200, None, "model-a")
        drill.operator_reads(log.read_text().splitlines()[-1])
        assert "short" not in log.read_text()
