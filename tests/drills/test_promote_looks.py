"""`abmesh promote` and `abmesh resume` show what they act on, and refuse a candidate that does not answer."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

from abmesh.local.stack import Stack
from tests.abmesh.cli.calls import call
from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, has_weight, rollout
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, status

pytestmark = pytest.mark.envoy

WARMUP = "      warmup: {path: /v1/chat/completions, body: '{\"messages\": []}', min_requests: 2}\n"


async def _run(running: Stack, *arguments: str) -> tuple[int, str, str]:
    """Run a command in a thread of this process, without a terminal; its exit code, output and errors."""
    where = ("--state", str(running.state), "--config", str(running.config))
    done = await asyncio.to_thread(call, *arguments, *where)
    return done.code, done.out, done.err


async def _at_a_terminal(running: Stack, answer: str, *arguments: str) -> tuple[int, str]:
    """Run a command at a terminal and type an answer; its exit code, and all that the terminal showed."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "abmesh.cli", *arguments, "--config", str(running.config)),
            *("--state", str(running.state)),
            stdin=theirs,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        os.write(ours, answer.encode())
        shown, _ = await process.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    return process.returncode or 0, shown.decode()


async def test_promote_and_resume_look_before_they_act(tmp_path: Path, drill: Drill) -> None:
    async with drilled(tmp_path, rollout(steps="[20, 100]", more=WARMUP)) as running:
        await running.start_controller()
        async with under_load(running.url, USERS) as load:
            load.path = CHAT
            await has_weight(running, 20)

            async def judged() -> bool:
                return bool((await status(running))["requests"] > 20)

            await eventually(judged)
            model = running.children["model-b"]
            listener = ("--warmup", running.warmup)

            code, shown = await _at_a_terminal(running, "n\n", "promote", "chat")
            assert code == 1, shown
            assert "chat: progressing, model-b at 20%" in shown
            assert "last decision, " in shown
            assert ": error_rate 0% over " in shown
            assert "probe: model-b answered a probe in " in shown
            assert "afterwards: model-b is at 100%" in shown
            assert "promote chat? [y/N]" in shown
            drill.operator_reads(*shown.splitlines())

            code, _, errors = await _run(running, "promote", "chat", *listener)
            assert code == 1
            assert "there is no terminal to ask at" in errors
            assert "probe: model-b answered" in errors

            # Its users get errors from here on; nobody else may become one.
            await running.behave("model-b", error_rate=1.0)
            for place in ((), listener):
                code, _, errors = await _run(running, "promote", "chat", "--yes", *place)
                assert code == 1
                assert "did not answer a probe" in errors
                assert "status 503" in errors
            drill.operator_reads(errors.splitlines()[-1])
            await running.behave("model-b", error_rate=0.0)
            await _run(running, "pause", "chat")
            await model.stop()
            code, _, errors = await _run(running, "resume", "chat", "--yes")
            assert code == 1
            assert "no connection: Connect" in errors
            code, _, errors = await _run(running, "promote", "chat", "--yes", *listener)
            assert code == 1
            assert "status 503" in errors
            assert (await status(running))["weights"]["model-b"] <= 20
            await model.start()
    drill.sent = len(load.answers)


async def test_a_reason_is_in_the_journal_and_a_dead_target_needs_a_word_of_its_own(tmp_path: Path) -> None:
    async with drilled(tmp_path, rollout(steps="[20, 100]")) as running:
        await running.children["model-b"].stop()
        code, _, errors = await _run(running, "promote", "chat", "--yes", "--reason", "bad\nline")
        assert code == 2
        assert "character 4 is not printable" in errors
        code, _, errors = await _run(
            running, "promote", "chat", "--yes", "--despite-probe", "--reason", "drill 13, model-b is back at noon"
        )
        assert code == 0, errors
        assert (await status(running))["weights"]["model-b"] == 100
        for command in ("journal", "explain"):
            _, said, _ = await _run(running, command, "chat")
            assert ": drill 13, model-b is back at noon" in said
        _, said, _ = await _run(running, "journal", "--json")
        assert '"note": "drill 13, model-b is back at noon"' in said
