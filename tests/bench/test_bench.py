"""The measurements themselves, as short as they can be, with real Envoys and servers."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from bench import streams
from bench.__main__ import main
from bench.contenders import CONTENDERS, REFERENCE
from bench.reactions import B
from bench.rollback import a_user_of
from bench.throughput import turned

pytestmark = pytest.mark.envoy


def test_every_data_path_is_measured_and_no_process_is_left(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    arguments = ["--only", "throughput", "--rounds", "1", "--requests", "200", "--output", str(results)]
    assert main(arguments) == 0
    rows = {row["name"]: row for row in json.loads(results.read_text())["rows"]}
    assert list(rows) == [contender.name for contender in CONTENDERS]
    for contender in CONTENDERS:
        row = rows[contender.name]
        assert row["failed_streams"] == 0
        assert row["requests_per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["envoy_cpu_us"] >= 0
        has_server = contender.kind == "ext_proc"
        assert (row["server_cpu_us"] is not None) == (row["rss_mb"] is not None) == has_server
        assert len(row["worker_shares"]) == contender.workers
    assert not [child for child in psutil.Process().children(recursive=True) if "envoy" in child.name()]


def test_every_chunk_of_a_stream_is_timed_on_every_path(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    assert main(["--only", "streams", "--rounds", "1", "--output", str(results)]) == 0
    rows = json.loads(results.read_text())["streams"]
    assert [(row["name"], row["chunks_per_second"]) for row in rows] == [
        (name, rate) for name in (streams.DIRECT, REFERENCE, streams.WITH_FILTERS) for rate in streams.RATES
    ]
    for row in rows:
        assert row["chunks"] == streams.STREAMS * row["chunks_per_second"] * 1.5
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert not [child for child in psutil.Process().children(recursive=True) if "envoy" in child.name()]


def test_each_round_begins_with_another_data_path() -> None:
    assert [turned("abc", number) for number in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_the_probe_of_the_rollback_belongs_to_the_candidate() -> None:
    assert a_user_of(B) == a_user_of(B) != a_user_of("model-a")
