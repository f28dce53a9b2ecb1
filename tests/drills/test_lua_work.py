"""Answers that are made to keep Envoy's reader busy: what it does for each byte is bounded, and tokens stay exact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.drills.report import Drill
from tests.e2e.playing import STREAM, Play, Player, amounts, playing_mesh, stream

pytestmark = pytest.mark.envoy

SIZE = 2_500_000
PLAIN = {"content-type": "text/plain"}
SAID = stream({"usage": {"prompt_tokens": 12, "completion_tokens": 34}})


def fill(unit: bytes) -> bytes:
    return unit * (SIZE // len(unit))


EVERY_EVENT = fill(b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n')
"""As some gateways stream: tokens so far with every event. The measure of what is reasonable."""

SHAPES: dict[str, tuple[bytes, float]] = {
    "keys of objects that never end": (fill(b'"usage":{'), 4),
    "keys of texts that never end": (fill(b'"usage":{"'), 4),
    "keys inside of values, level in level": (fill(b'"usage":{"p":"' + b"x" * 480 + b'",'), 2),
    "objects just too long to be read": (fill(b'"usage":{' + b'"":0,' * 830), 10),
    "lists in objects in lists": (fill(b'{"usage":['), 4),
    "one object in another without end": (b'"usage":' + fill(b'{"a":'), 4),
    "one text without end": (b'"usage":{"a":"' + b"x" * SIZE, 2),
    "blanks": (fill(b'"usage":{' + b" " * 4000 + b'"usage":{'), 4),
    "keys alone": (fill(b'"usage"'), 4),
    "a refusal that is always cut short": (fill(b'"finish_reason":"content_filte'), 4),
    "quotes": (fill(b'"'), 8),
    "long numbers": (fill(b'"usage":{"prompt_tokens":' + b"1" * 3000), 4),
    "no JSON": (fill(b'"usage":{x'), 4),
}
"""Each with the most CPU time for a byte of it, as a multiple of the measure's."""

CUT = {
    "members": b'"usage":{' + b'"":0,' * 800,
    "keys": b'"usage":{' * 100,
}
"""Sent byte by byte, so that whatever is read again is read again for each."""


def cpu(player: Player) -> float:
    """Seconds of CPU time that Envoy's threads have taken."""
    tasks = Path(f"/proc/{player.mesh.envoy.pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


async def took(player: Player, pieces: Sequence[bytes], headers: dict[str, str]) -> float:
    """Seconds of Envoy's CPU time for an answer, which must arrive unchanged."""
    before = cpu(player)
    play = Play(pieces, headers)
    assert await player.ask(play) == play.body
    return cpu(player) - before


def pieces(body: bytes, size: int = 500_000) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


async def test_no_shape_of_an_answer_costs_much_more_than_an_honest_one(tmp_path: Path, drill: Drill) -> None:
    async with playing_mesh(tmp_path) as player:
        measure = max([await took(player, pieces(EVERY_EVENT), STREAM) for _ in range(2)])
        drill.operator_reads(f"tokens in every event: {1e9 * measure / len(EVERY_EVENT):.0f} ms of CPU a MB")
        for name, (body, most) in SHAPES.items():
            passed = await took(player, pieces(body), PLAIN)
            read = await took(player, [*pieces(body), b"\n\n" + SAID], STREAM)
            drill.operator_reads(
                f"{name}: {1e9 * read / len(body):.0f} ms of CPU a MB, {1e9 * passed / len(body):.1f} ms unread"
            )
            assert read < passed + most * measure, name
        drill.sent = 2 + 2 * len(SHAPES)
        found = await amounts(player.mesh, drill.sent)
        assert found["input_tokens"] == 2 + 12 * len(SHAPES), "what comes after is read all the same"
        assert found["output_tokens"] == 4 + 34 * len(SHAPES)


async def test_an_answer_in_pieces_of_one_byte_is_not_read_over_and_over(tmp_path: Path, drill: Drill) -> None:
    async with playing_mesh(tmp_path) as player:
        for name, body in CUT.items():
            passed = await took(player, pieces(body, 1), PLAIN)
            read = await took(player, [*pieces(body, 1), b"\n\n" + SAID], STREAM)
            drill.operator_reads(
                f"{name}: {1e6 * read / len(body):.0f} us a byte, {1e6 * passed / len(body):.0f} unread"
            )
            assert read < 2.5 * passed + 0.01, name
        drill.sent = 2 * len(CUT)
        found = await amounts(player.mesh, drill.sent)
        assert (found["input_tokens"], found["output_tokens"]) == (12 * len(CUT), 34 * len(CUT))


async def test_an_answer_that_says_its_tokens_without_end_is_given_up_and_the_next_one_is_read(
    tmp_path: Path, drill: Drill
) -> None:
    async with playing_mesh(tmp_path) as player:
        await took(player, [*pieces(EVERY_EVENT * 3), SAID], STREAM)
        found = await amounts(player.mesh, 1)
        assert found["first_tokens"] == 1
        assert not {"usage", "input_tokens", "output_tokens"} & set(found)
        await took(player, [SAID], STREAM)
        drill.sent = 2
        found = await amounts(player.mesh, 2)
        assert (found["usage"], found["input_tokens"], found["output_tokens"]) == (1, 12, 34)
