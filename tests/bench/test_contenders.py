"""The contenders: each starts, answers, and says which variant did; and what cannot start is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from abmesh.experiment import bucketing
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from bench import contenders, documents, envoys
from bench.contenders import BY_NAME, CONTENDERS, REFERENCE, Contender, chosen
from bench.load import requests_of
from bench.running import Bench

USERS = [f"user-{number}" for number in range(200)]
LAW = {"ext_proc", "go", "native", "native_alone", "native_split"}
"""Kinds that assign by the law; the others draw, or have a hash of their own."""


@pytest.fixture
async def bench(short_path: Path) -> AsyncIterator[Bench]:
    before = set(psutil.Process().children(recursive=True))  # such as multiprocessing's resource tracker
    async with AsyncExitStack() as stack:
        made = Bench(short_path, stack)
        await made.start_upstream()
        yield made
    assert set(psutil.Process().children(recursive=True)) <= before


def on_b(port: int) -> int:
    """How many of the users the law gives to model-b."""
    experiment = documents.document(port).experiments[0]
    places = bucketing.cells(experiment.effective_ranges, experiment.slices)
    units = (user.encode() for user in USERS)
    return sum(places[bucketing.bucket_of(experiment.hash_salt, unit)].variant == "model-b" for unit in units)


@pytest.mark.envoy
@pytest.mark.parametrize("name", list(BY_NAME))
async def test_a_contender_starts_and_answers_right(name: str, bench: Bench) -> None:
    contender = BY_NAME[name]
    if reason := contenders.missing(contender):
        pytest.skip(f"{name} is not compared: {reason}")
    one = await bench.start(contender)
    count = contender.count(len(USERS))
    result = await one.load(requests_of(USERS, documents.PATH), count, connections=4)
    assert result.statuses == {200: count}
    versions = {version.decode(): count for version, count in result.versions.items()}
    if contender.kind == "alone":
        assert versions == {"": count}
    else:
        assert set(versions) == {"model-a", "model-b"}
        assert versions["model-a"] > versions["model-b"]
    if contender.kind in LAW:
        assert versions["model-b"] == on_b(bench.upstream)


@pytest.mark.envoy
async def test_a_round_has_every_figure_of_the_contender(bench: Bench) -> None:
    one = await bench.start(BY_NAME["grpcio_2_workers"])
    sample = await one.measure(requests_of(USERS, documents.PATH), 100, rate=200)
    assert sum(sample.failures.values()) == 0
    assert {"failed_requests", "unassigned_answers", "streams_failed", "message_timeouts"} <= set(sample.failures)
    assert 0 < sample.p50_ms <= sample.p99_ms <= sample.p999_ms
    assert sample.server_cpu_us is not None
    assert sample.envoy_cpu_us is not None
    assert sample.server_cpu_us > 0 < sample.envoy_cpu_us
    assert len(sample.shares) == 2


@pytest.mark.envoy
@pytest.mark.parametrize("name", ["native", "nghttp2_1_worker", "go_1_processor", REFERENCE])
async def test_a_contender_serves_many_experiments(name: str, bench: Bench) -> None:
    contender = BY_NAME[name]
    if reason := contenders.missing(contender):
        pytest.skip(f"{name} is not compared: {reason}")
    one = await bench.start(contender, experiments=10)
    for path in documents.paths(10)[::3]:
        result = await one.load(requests_of(USERS, path), 20, connections=2)
        assert result.statuses == {200: 20}
        assert bool(result.versions[b""]) == (name == REFERENCE)


def test_names_differ_and_the_reference_is_first() -> None:
    assert len(BY_NAME) == len(CONTENDERS)
    assert CONTENDERS[0].name == REFERENCE


def test_what_cannot_start_is_skipped_and_says_why() -> None:
    def lacks(contender: Contender) -> str:
        return "no Go here" if contender.kind == "go" else ""

    wanted, skipped = chosen(["go_1_processor", "lua_split", REFERENCE], lacks)
    assert [contender.name for contender in wanted] == [REFERENCE, "lua_split"]
    assert skipped == [{"name": "go_1_processor", "reason": "no Go here"}]


def test_whoever_has_a_server_of_ours_needs_what_its_transport_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "find_spec", lambda name: None if name == "ngh2" else name)
    lacking = [contender.name for contender in CONTENDERS if "ngh2" in contenders.missing(contender)]
    assert lacking == ["native", *(name for name in BY_NAME if name.startswith("nghttp2"))]


def test_all_are_wanted_where_none_is_named() -> None:
    wanted, skipped = chosen([], lambda _: "")
    assert (wanted, skipped) == (list(CONTENDERS), [])


def test_slow_contenders_get_fewer_requests() -> None:
    assert BY_NAME["fastapi_client_per_request"].count(10_000) == 60
    assert BY_NAME["fastapi_client_per_request"].count(10) == 10
    assert BY_NAME[REFERENCE].count(10_000) == 10_000


def test_only_what_says_so_differs_between_the_envoys_of_contenders() -> None:
    document = documents.document(8001, lane="native")
    options = RenderOptions(warmup="")
    rendered = render_bootstrap(document, options)
    for made in (envoys.native_alone(rendered), envoys.native_alone(rendered, headers=False)):
        ours = rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        its = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        assert {key for key in ours if ours[key] != its.get(key)} == {"http_filters", "route_config", "access_log"}
        for mine, theirs in zip(
            ours["route_config"]["virtual_hosts"][0]["routes"],
            its["route_config"]["virtual_hosts"][0]["routes"],
            strict=True,
        ):
            assert mine["match"] == theirs["match"]
            assert mine.get("route", {}).get("hash_policy") == theirs.get("route", {}).get("hash_policy")
