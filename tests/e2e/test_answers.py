"""What the rendered Envoy reads of answers while they pass: tokens, refusals, caches; and that they pass unchanged."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.envoy_process import wait_for
from tests.e2e.playing import JSON, STREAM, Play, Player, amounts, broken_off, playing_mesh, split, stream
from tests.e2e.rendered_mesh import chat_experiment, rendered_mesh, user

pytestmark = pytest.mark.envoy


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    details = {"reasoning_tokens": 3, "completion_tokens": 999, "accepted": [1, {"completion_tokens": 998}]}
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens_details": details,
        "completion_tokens": output_tokens,
        "note": 'an "}" and a \\',
        "prompt_tokens_details": {"prompt_tokens": 997, "cached_tokens": None},
    }


def completion(said: dict[str, Any] | None, text: str = "Hello", **choice: Any) -> bytes:
    choices = [{"message": {"content": text, "refusal": None}, "finish_reason": "stop", **choice}]
    return json.dumps({"choices": choices, "usage": said}, indent=random.choice([None, 2])).encode()


def deltas(said: dict[str, Any] | None, texts: list[str], **choice: Any) -> bytes:
    events: list[Any] = [
        {"choices": [{"delta": {"content": text}, "finish_reason": None}], "usage": None} for text in texts
    ]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop", **choice}]})
    if said is not None:
        events.append({"choices": [], "usage": said})
    return stream(*events)


async def test_tokens_are_counted_exactly_whatever_the_pieces_of_the_answer(tmp_path: Path) -> None:
    dice = random.Random(1)
    plays = []
    totals = dict.fromkeys(("input_tokens", "output_tokens", "streamed_tokens"), 0)
    for _ in range(120):
        said = usage(dice.randrange(10_000), dice.randrange(10_000))
        streamed = dice.random() < 0.5
        words = ["word " * dice.randrange(1, 40) for _ in range(dice.randrange(1, 30))]
        body = deltas(said, words) if streamed else completion(said, " ".join(words))
        places = dice.sample(range(1, len(body)), min(len(body) - 1, dice.choice([0, 1, 3, 30])))
        plays.append(Play(split(body, *places), STREAM if streamed else JSON))
        totals["input_tokens"] += said["prompt_tokens"]
        totals["output_tokens"] += said["completion_tokens"]
        totals["streamed_tokens"] += said["completion_tokens"] * streamed
    async with playing_mesh(tmp_path) as player:
        bodies = await asyncio.gather(*(player.ask(play) for play in plays))
        assert bodies == [play.body for play in plays]
        found = await amounts(player.mesh, len(plays))
        assert {name: found[name] for name in totals} == totals
        assert (found["usage"], found["first_tokens"]) == (len(plays), len(plays))
        assert "refusals" not in found
        assert "broken" not in found


async def test_the_number_of_tokens_may_be_cut_anywhere(tmp_path: Path) -> None:
    said = {"prompt_tokens": 12, "completion_tokens": 34567}
    plays = []
    for body, headers in ((completion(said), JSON), (deltas(said, ["Hi"]), STREAM)):
        start = body.rindex(b'"usage"')
        plays += [Play(split(body, place), headers) for place in range(start - 2, len(body))]
        plays.append(Play([body[place : place + 1] for place in range(len(body))], headers))
    async with playing_mesh(tmp_path) as player:
        for index in range(0, len(plays), 25):
            some = plays[index : index + 25]
            assert await asyncio.gather(*(player.ask(play) for play in some)) == [play.body for play in some]
        found = await amounts(player.mesh, len(plays))
        assert found["input_tokens"] == 12 * len(plays)
        assert found["output_tokens"] == 34567 * len(plays)


LOOK_ALIKES = (
    {"content": 'say "usage": {"prompt_tokens": 1, "completion_tokens": 2} please'},
    {"content": '"usage"', "usage": "usage"},
    {'x"usage': {"completion_tokens": 3}},
    {"content": '\\"usage\\": {"completion_tokens": 4}'},
    {"usage": {"details": {"completion_tokens": 5}}},
    {"usage": {"list": [{"completion_tokens": 6}], "text": 'a "completion_tokens": 7'}},
    {"usage": {"completion_tokens": "8", "prompt_tokens": None}},
    {"usage": {"completion_tokens": -9}},
    {"usage": {"completion_tokens": 1.5}},
    {"usage": {"completion_tokens": 10**10}},
    {"usage_": {"completion_tokens": 10}, "my_usage": {"completion_tokens": 11}},
    {"usage": [{"completion_tokens": 12}]},
    {"usage": {"pad": "x" * 5000, "completion_tokens": 13}},
    {"message": {"content": 'finish_reason": "content_filter"', "refusal": ""}, "refusal": None},
    {"finish_reason": "content_filtered"},
    {"finish_reason": "CONTENT_FILTER", 'x"refusal': "no"},
)


async def test_what_looks_like_tokens_or_a_refusal_and_is_none_counts_as_none(tmp_path: Path) -> None:
    plays = []
    for answer in LOOK_ALIKES:
        body = json.dumps(answer).encode()
        plays += [Play([body]), Play(split(body, *range(1, len(body), 7))), Play([stream(body)], STREAM)]
    async with playing_mesh(tmp_path) as player:
        assert await asyncio.gather(*(player.ask(play) for play in plays)) == [play.body for play in plays]
        found = await amounts(player.mesh, len(plays))
        assert found["first_tokens"] == len(plays)
        assert not {"usage", "input_tokens", "output_tokens", "refusals", "broken"} & set(found)


BROKEN_STREAMS = (
    b"",
    b"data: {not json\n\n",
    b'data: {"usage":\n\ndata: {"completion_tokens": 1}\n\n',
    b'data: {"usage": {"completion_tokens": 2\n\ndata: {"x": 1}}\n\n',
    b'data: {"usage": {"completion_tokens": "\n\ndata: "3}}\n\n',
    b'data: {"usage": {"completion_tokens": 4,',
    b'data: {"usage": {' + b'"a": {' * 50 + b"\n\n",
    b'\x00\xff"usage"\x00:{"completion_tokens":5}',
    b'data: {"usage": {"completion_tokens": tru}}\n\n',
    b'"usage"' * 2000,
    b'"usage": {' * 2000,
)


async def test_malformed_streams_pass_unchanged_and_count_no_tokens(tmp_path: Path) -> None:
    plays = [Play([body] if body else [], STREAM) for body in BROKEN_STREAMS]
    plays += [Play(split(body, *range(1, len(body), 11)), STREAM) for body in BROKEN_STREAMS if 0 < len(body) < 300]
    plays.append(Play([b"data: {not json\n\n" + deltas({"completion_tokens": 6}, [])], STREAM))
    async with playing_mesh(tmp_path) as player:
        assert await asyncio.gather(*(player.ask(play) for play in plays)) == [play.body for play in plays]
        found = await amounts(player.mesh, len(plays))
        assert found["first_tokens"] == len(plays) - 1, "one had no body"
        assert (found["usage"], found["output_tokens"], found["input_tokens"]) == (1, 6, 0)


async def test_the_last_number_of_tokens_wins(tmp_path: Path) -> None:
    first, last = {"usage": {"prompt_tokens": 25, "completion_tokens": 1}}, {"usage": {"completion_tokens": 15}}
    body = stream({"message": first}, {"delta": "Hi"}, last, {"usage": None})
    async with playing_mesh(tmp_path) as player:
        await asyncio.gather(player.ask(Play([body], STREAM)), player.ask(Play(split(body, 40, 90, 120), STREAM)))
        found = await amounts(player.mesh, 2)
        assert (found["input_tokens"], found["output_tokens"], found["usage"]) == (50, 30, 2)


async def test_an_answer_of_ten_megabytes_passes_unchanged_and_is_counted(tmp_path: Path) -> None:
    long = completion({"prompt_tokens": 5, "completion_tokens": 7}, "long " * 2_000_000)
    events = deltas({"prompt_tokens": 5, "completion_tokens": 7}, ["long " * 100_000] * 20)
    async with playing_mesh(tmp_path) as player:
        assert await player.ask(Play([long])) == long
        assert await player.ask(Play([events], STREAM)) == events
        found = await amounts(player.mesh, 2)
        assert (found["input_tokens"], found["output_tokens"], found["streamed_tokens"]) == (10, 14, 7)
        assert "broken" not in found


async def test_answers_that_the_client_leaves_are_not_broken_and_those_that_the_model_leaves_are(
    tmp_path: Path,
) -> None:
    body = deltas({"prompt_tokens": 5, "completion_tokens": 7}, ["Hello"] * 3)
    async with playing_mesh(tmp_path) as player:
        left = Play([body], STREAM, waits=True)
        asking = asyncio.create_task(player.ask(left))
        await left.whole.wait()
        asking.cancel()
        await amounts(player.mesh, 1)
        await broken_off(player, Play([body], STREAM, breaks=True))
        found = await amounts(player.mesh, 2)
        assert found["requests.code.200"] == 2
        assert (found["broken"], found["left"]) == (1, 1)
        assert found["first_tokens"] == 2
        assert not {"usage", "output_tokens", "streamed_tokens"} & set(found), "neither was read to its end"


async def test_failed_answers_are_told_apart_and_those_that_the_client_gave_up_have_not_failed(tmp_path: Path) -> None:
    """A failure is often fast; what a client gave up would have taken longer than it did."""
    body = completion(usage(1, 2))
    plays = [Play([body], status=status) for status in (200, 302, 400, 429, 500)]
    async with playing_mesh(
        tmp_path, [chat_experiment(segments={"header": "x-segment", "values": ["power"]})]
    ) as player:
        power = user(set={"x-ab-segment": "power"})
        await asyncio.gather(*(player.ask(play, power) for play in plays))
        await player.ask(Play([body], JSON | {"x-cache": "HIT"}, status=500), power)
        left = Play([body], waits=True)
        asking = asyncio.create_task(player.ask(left, power))
        await left.whole.wait()
        asking.cancel()
        await broken_off(player, Play([body], first=0.3, breaks=True), power)
        found = await amounts(player.mesh, 8)
        assert (found["failed"], found["broken"], found["left"], found["cached"]) == (4, 1, 1, 1)
        assert 300 <= found["failed_ms"] <= found["duration_ms"]
        assert found["first_tokens"] == 4, "of 200, 302, the one left and the one broken off"
        whole = {"duration": 7, "failed_duration": 4, "ttft": 4}
        await histograms(player, whole | {f"{name}_by_segment": count for name, count in whole.items()})


async def test_a_variants_time_limit_in_the_middle_of_an_answer_breaks_it(tmp_path: Path) -> None:
    async with playing_mesh(tmp_path) as player:
        short = user(set={"x-envoy-upstream-rq-timeout-ms": "300"})
        await broken_off(player, Play([b"{"], waits=True), short)
        found = await amounts(player.mesh, 1)
        assert (found["requests.code.200"], found["broken"]) == (1, 1)


@pytest.mark.parametrize("told", [{"age": "1"}, {"x-cache": "HIT"}], ids=["age", "x-cache"])
async def test_answers_from_a_cache_are_kept_out_of_everything_but_requests(
    tmp_path: Path, told: dict[str, str]
) -> None:
    body = completion(usage(1, 2), refusal="no")
    async with playing_mesh(tmp_path) as player:
        await player.ask(Play([body], JSON | told))
        found = await amounts(player.mesh, 1)
        assert found == {"requests.code.200": 1, "cached": 1}
        await player.ask(Play([body], JSON | {"x-cache": "MISS, from hit"}))
        found = await amounts(player.mesh, 2)
        assert (found["cached"], found["usage"], found["first_tokens"]) == (1, 1, 1)
        assert "duration_ms" in found
        await histograms(player, {"duration": 1, "ttft": 1})


async def test_an_age_of_0_is_no_sign_of_a_cache_unless_the_document_names_it(tmp_path: Path) -> None:
    """Gateways send it with answers that the model has just made."""
    named = chat_experiment(
        name="other", match={"path_prefix": "/other/"}, answers={"cached": [{"header": "age", "value": "0"}]}
    )
    play = Play([completion(usage(1, 2))], JSON | {"age": "0"})
    async with playing_mesh(tmp_path, [chat_experiment(), named]) as player:
        await player.ask(play)
        found = await amounts(player.mesh, 1)
        assert "cached" not in found
        assert (found["usage"], found["first_tokens"]) == (1, 1)
        await player.ask(play, user(experiment="other"), path="/other/x")
        await player.mesh.counted("abmesh.cached.experiment.other.variant.model-b.slice.7", 1)


async def test_refusals_are_told_by_a_field_of_json_or_of_a_stream(tmp_path: Path) -> None:
    bodies = [
        (completion(usage(1, 2), finish_reason="content_filter"), JSON),
        (completion(None, finish_reason="content_filter", again={"finish_reason": "content_filter"}), JSON),
        (json.dumps({"message": {"refusal": "I cannot"}}).encode(), JSON),
        (deltas(usage(1, 2), ["Hi"], finish_reason="content_filter"), STREAM),
        (stream({"delta": {"refusal": ""}}, {"delta": {"refusal": "I"}}), STREAM),
    ]
    plays = [Play(split(body, *range(step, len(body), step)), kind) for body, kind in bodies for step in (1, 9, 9999)]
    async with playing_mesh(tmp_path) as player:
        await asyncio.gather(*(player.ask(play) for play in plays))
        found = await amounts(player.mesh, len(plays))
        assert found["refusals"] == len(plays)


async def test_what_is_looked_for_is_the_documents_own_and_never_code(tmp_path: Path) -> None:
    text, quoted = "]] .. os.exit() --[[ %d '", 'say "hit" \\ ]] .. os.exit()'
    refusals = [{"header": "X-Refused", "value": text}, {"header": "x-blocked"}, {"field": "stop", "value": text}]
    chat = chat_experiment(
        answers={
            "input_tokens": "meta.counts.in-put",
            "output_tokens": "tokens",
            "refusals": refusals,
            "cached": [{"header": "x-from", "value": quoted}],
        }
    )
    other = chat_experiment(name="other", match={"path_prefix": "/other/"})
    told = {"meta": {"in-put": 1, "counts": {"deep": {"in-put": 2}, "in-put": 30}}, "usage": usage(4, 5)}
    body = json.dumps([told, {"tokens": 60, "x": {"tokens": None}}]).encode()
    async with playing_mesh(tmp_path, [chat, other]) as player:
        await player.ask(Play(split(body, 30, 60, 90)))
        found = await amounts(player.mesh, 1)
        assert (found["input_tokens"], found["output_tokens"]) == (30, 60)
        assert "refusals" not in found
        for refused in ({"x-refused": text.upper()}, {"x-blocked": "1"}):
            await player.ask(Play([b"plain"], {"content-type": "text/plain"} | refused))
        await player.ask(Play([json.dumps({"stop": text}).encode()]))
        await player.ask(Play([body], JSON | {"x-from": quoted.title()}))
        await player.ask(Play([body], JSON | {"age": "7"}), user(experiment="other"), path="/other/x")
        await player.ask(Play([completion(usage(7, 8))]), user(experiment="other"), path="/other/x")
        found = await amounts(player.mesh, 5)
        assert (found["refusals"], found["cached"], found["usage"]) == (3, 1, 1)
        others = await player.mesh.counted("abmesh.output_tokens.experiment.other.variant.model-b.slice.7", 8)
        assert others["abmesh.cached.experiment.other.variant.model-b.slice.7"] == 1


async def test_answers_without_a_body_and_bodies_that_cannot_be_read_are_what_they_are(tmp_path: Path) -> None:
    body = completion(usage(1, 2))
    packed = gzip.compress(body)
    async with playing_mesh(tmp_path) as player:
        assert await player.ask(Play(status=204, bare=True, headers={})) == b""
        assert await player.ask(Play([body]), method="HEAD") == b""
        assert await player.ask(Play([])) == b""
        found = await amounts(player.mesh, 3)
        assert set(found) == {"requests.code.204", "requests.code.200", "duration_ms"}, "none of them failed"
        assert await player.ask(Play([packed], JSON | {"content-encoding": "x-gzip"})) == packed
        assert await player.ask(Play([body], {"content-type": "text/plain"})) == body
        assert await player.ask(Play([body], {})) == body
        found = await amounts(player.mesh, 6)
        assert found["first_tokens"] == 3
        assert "usage" not in found


async def test_answers_of_envoys_own_have_no_first_token(tmp_path: Path) -> None:
    async with rendered_mesh(tmp_path) as mesh:
        assert (await mesh.get("/v1/x?drop", user())).status == 503
        assert (await mesh.get("/v1/x?status=500", user())).status == 500
        found = await amounts(mesh, 2)
        assert (found["requests.code.503"], found["requests.code.500"], found["failed"]) == (1, 1, 2)
        assert not {"broken", "first_tokens"} & set(found), "both are errors already, and an error's text is no token"
        assert mesh.envoy.log_lines("error") == []


async def test_time_to_first_token_and_generation_are_the_clients_own(tmp_path: Path) -> None:
    """The first piece is sent at once and the next when the client has it, after a while that the client sees."""
    async with playing_mesh(tmp_path) as player:
        pause = 0.25
        await player.ask(Play(split(deltas(usage(1, 2), ["Hello"]), 30), STREAM, pause=pause))
        found = await amounts(player.mesh, 1)
        assert found["generation_ms"] >= 1000 * pause - 1
        assert found["ttft_ms"] <= found["duration_ms"] - 1000 * pause + 1


async def test_a_mistake_of_the_scripts_own_costs_the_numbers_and_not_the_answer(tmp_path: Path) -> None:
    right = "local function search(text, from, key, seen)"
    body = completion({"prompt_tokens": 5, "completion_tokens": 7})

    def mistaken(bootstrap: str) -> str:
        assert right in bootstrap
        return bootstrap.replace(right, f"{right} error(nil .. text) ")

    async with playing_mesh(tmp_path, edit=mistaken) as player:
        assert await player.ask(Play(split(body, 20, 40, 60))) == body
        assert "usage" not in await amounts(player.mesh, 1)


async def test_overrides_are_served_the_same_and_nothing_of_them_is_counted(tmp_path: Path) -> None:
    body = completion(usage(1, 2), finish_reason="content_filter")
    async with playing_mesh(tmp_path) as player:
        assert await player.ask(Play([body]), user(slice_=None)) == body
        await player.ask(Play([body]))
        found = await amounts(player.mesh, 1)
        assert (found["usage"], found["refusals"], found["first_tokens"]) == (1, 1, 1)


async def histograms(player: Player, wanted: dict[str, int]) -> None:
    """Wait until histograms hold so many values; Envoy merges them now and then."""

    def merged() -> bool:
        found: dict[str, int] = {}
        for name, bins in player.mesh.envoy.histograms("^abmesh").items():
            kind = name.split(".")[1]
            found[kind] = found.get(kind, 0) + sum(part["count"] for part in bins)
        return found == wanted

    await asyncio.to_thread(wait_for, merged, f"histograms of {wanted}", 15)
