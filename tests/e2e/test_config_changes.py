"""Whoever edits the weights, and however: good edits take effect, broken ones never do."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.local.stack import Stack, fetch
from tests.e2e.support import abmesh, ask, document, eventually, metric, session, stack

pytestmark = pytest.mark.envoy

ALL_TO_A = document({"model-a": 100.0, "model-b": 0.0})


async def _everybody_on(running: Stack, variant: str) -> float:
    """Seconds until a user is on the variant."""
    async with session() as client:

        async def there() -> bool:
            return (await ask(client, running.url, {"x-user-id": "user-1"})).variant == variant

        return await eventually(there, pause=0.02)


def _weights(running: Stack, a: int, b: int) -> str:
    lines = running.config.read_text().splitlines(keepends=True)
    for index, line in enumerate(lines):
        for name, weight in (("model-a", a), ("model-b", b)):
            if f"name: {name}," in line:
                start, _, rest = line.partition("weight: ")
                lines[index] = f"{start}weight: {weight},{rest.partition(',')[2]}"
    return "".join(lines)


async def test_an_edit_by_hand_takes_effect_whether_the_editor_writes_in_place_or_replaces(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_A) as running:
        await _everybody_on(running, "model-a")
        running.config.write_text(_weights(running, 0, 100))
        await _everybody_on(running, "model-b")
        replacement = tmp_path / "experiments.yaml.swp"
        replacement.write_text(_weights(running, 100, 0))
        replacement.replace(running.config)
        await _everybody_on(running, "model-a")


async def test_the_weights_command_takes_effect_and_keeps_comments(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_A) as running:
        code, _, errors = await abmesh("weights", "chat", "model-b=100", config=running.config)
        assert code == 0, errors
        await _everybody_on(running, "model-b")
        assert "# A comment that every write must keep." in running.config.read_text()
        code, _, errors = await abmesh("weights", "chat", "model-a=50", "model-b=60", config=running.config)
        assert code == 1
        assert "100" in errors
        assert "Traceback" not in errors
        await _everybody_on(running, "model-b")


async def test_a_symlink_swap_as_kubernetes_does_it_takes_effect(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_A) as running:
        texts = {"..1": running.config.read_text(), "..2": _weights(running, 0, 100), "..3": _weights(running, 100, 0)}
        for folder, text in texts.items():
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "experiments.yaml").write_text(text)
        running.config.unlink()
        (tmp_path / "..data").symlink_to("..1")
        running.config.symlink_to("..data/experiments.yaml")
        await _everybody_on(running, "model-a")
        for target, variant in (("..2", "model-b"), ("..3", "model-a")):
            (tmp_path / "..data_tmp").symlink_to(target)
            (tmp_path / "..data_tmp").replace(tmp_path / "..data")
            await _everybody_on(running, variant)


async def test_a_broken_edit_never_takes_effect_is_reported_and_the_next_good_one_works(tmp_path: Path) -> None:
    async with stack(tmp_path, ALL_TO_A) as running:
        running.config.write_text(_weights(running, 10, 100))

        async def rejected() -> bool:
            text = await fetch(running.server_metrics)
            return text is not None and metric(text, "abmesh_config_rejected_total") >= 1

        await eventually(rejected)
        assert await _everybody_on(running, "model-a") < 30
        code, _, errors = await abmesh("validate", config=running.config)
        assert code == 1
        assert "experiments.yaml:" in errors
        assert "110" in errors
        assert "Traceback" not in errors
        assert "weights must sum to exactly 100" in running.children["ext-proc"].tail()
        _, output, errors = await abmesh("status", config=running.config)
        assert "weights must sum to exactly 100" in output + errors
        running.config.write_text(_weights(running, 0, 100))
        await _everybody_on(running, "model-b")
