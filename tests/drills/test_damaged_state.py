"""One bad byte in one rollout's state: its previous copy takes over; without one, only that rollout stops.

While it is stopped, harm is judged on the document's weights, and rolled back.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.stack import Stack
from controller.state.states import StateStore
from tests.drills.controllers import USERS, account, flip, has, moves, rollout, shown, statuses
from tests.drills.report import Drill
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, abmesh, eventually, stack

pytestmark = pytest.mark.envoy

TICK = timedelta(milliseconds=200)


def _two_rollouts() -> str:
    """``other`` takes completions, and can be made to fail; ``chat`` takes the rest, and goes on meanwhile."""
    text = rollout("500ms", "[50, 100]")
    head, experiment = text.split("experiments:\n")
    other = experiment.replace("name: chat", "name: other").replace("salt: e2e", "salt: other")
    other = other.replace("path_prefix: /v1/", f"path_prefix: {CHAT}").replace("llm-session", "other-session")
    return f"{head}experiments:\n{other.replace('500ms', '1h')}{experiment}"


async def test_one_bad_byte_stops_at_most_one_rollout_and_no_protection(tmp_path: Path, drill: Drill) -> None:
    async with stack(tmp_path, _two_rollouts(), interval=TICK) as running:
        path = running.state / "rollouts" / "other.json"

        async def committed() -> bool:
            """Nothing that is under way writes the state again."""
            found = StateStore(running.state).read()
            state = found.experiments.get("other")
            whole = state is not None and "other" not in found.restored
            return whole and state is not None and state.stage.weight == 5000 and state.intent is None

        await eventually(committed)
        async with (
            under_load(running.url, USERS, pause=0.001, concurrency=2) as chat,
            under_load(running.url, USERS, pause=0.001, concurrency=2) as other,
        ):
            other.path = CHAT
            flip(path)
            await eventually(lambda: _logged(running, "its previous copy is whole"))
            await eventually(committed)
            assert statuses(running)["other"]["state"] == "progressing"
            assert await moves(running, "other") == [("advance", 0, 50)]

            flip(path)
            flip(path.with_name("other.json.previous"))
            await eventually(has(running, "other", state="unknown"))
            await eventually(has(running, "chat", state="promoted"))
            assert await moves(running) == [("advance", 0, 50), ("advance", 50, 100)]
            await running.behave("model-b", error_rate=0.5)
            await eventually(has(running, "other", weight=0))
            assert "does not match its hash" in await shown(running)
            drill.operator_reads(
                f"status: {statuses(running)['other']['state_error']}", *_lines(running, "without its state")
            )
        account(drill, chat)
        account(drill, other, harmed=True)
        assert await moves(running, "other") == [("advance", 0, 50), ("rollback", 50, 0)]
        code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
        assert code == 0, output + errors

        for each in (path, path.with_name("other.json.previous")):
            each.unlink()
        await eventually(has(running, "other", state="manual"))
    assert (drill.failed, drill.wrong) == (0, 0)


def _lines(running: Stack, text: str) -> list[str]:
    return [line for line in (running.folder / "controller.log").read_text().splitlines() if text in line][:1]


async def _logged(running: Stack, text: str) -> bool:
    return bool(_lines(running, text))
