"""The measurements themselves, as short as they can be, with real Envoys and servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import streams
from bench.__main__ import main
from bench.contenders import REFERENCE
from bench.reactions import B
from bench.rollback import a_user_of
from bench.throughput import turned

pytestmark = pytest.mark.envoy


def test_data_paths_are_measured_at_full_and_at_half_load_and_no_process_is_left(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    # Two in the place of all, each of which test_contenders.py starts.
    names = ["nghttp2_1_worker", "lua_split"]
    arguments = ["--only", "half_load", "--quick", "--rounds", "1", "--requests", "200", "--output", str(results)]
    assert main([*arguments, "--contenders", ",".join(names)]) == 0
    content = json.loads(results.read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert set(rows) == {REFERENCE, *names}
    for name, row in rows.items():
        assert row["failed_streams"] == 0
        assert row["requests_per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
        assert row["envoy_cpu_us"] > 0
        has_server = name == names[0]
        assert (row["server_cpu_us"] is not None) == (row["rss_mb"] is not None) == has_server
    assert [row["name"] for row in content["half_load"]] == list(rows)
    assert content["skipped"] == []
    assert {(row["of"], row["to"]) for row in content["ratios"]} == {("lua_split", REFERENCE)}
    assert not [child for child in psutil.Process().children(recursive=True) if "envoy" in child.name()]


def _are_whole(rows: list[dict[str, Any]], rates: Sequence[int]) -> None:
    assert [(row["name"], row["chunks_per_second"]) for row in rows] == [
        (name, rate) for name in (streams.DIRECT, REFERENCE, streams.WITH_FILTERS) for rate in rates
    ]
    for row in rows:
        assert row["chunks"] == streams.STREAMS * row["chunks_per_second"] * 1.5
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert not [child for child in psutil.Process().children(recursive=True) if "envoy" in child.name()]


async def test_every_chunk_of_a_stream_is_timed_on_every_path(short_path: Path) -> None:
    rates = streams.RATES[-1:]
    _are_whole(await streams.measure(short_path, 1, print, rates), rates)


@pytest.mark.soak
def test_the_command_times_streams_at_every_rate(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    assert main(["--only", "streams", "--rounds", "1", "--output", str(results)]) == 0
    _are_whole(json.loads(results.read_text())["streams"], streams.RATES)


def test_each_round_begins_with_another_data_path() -> None:
    assert [turned("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_the_probe_of_the_rollback_belongs_to_the_candidate() -> None:
    assert a_user_of(B) == a_user_of(B) != a_user_of("model-a")
