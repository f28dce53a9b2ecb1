"""What grows, by how much, and what is made of it."""

from __future__ import annotations

import pytest

from bench import documents, growth, half_load
from bench.contenders import BY_NAME
from bench.growth import USUAL, Point
from bench.summary import Sample


def sample(requests_per_second: float = 1000, p50_ms: float = 1.0, p99_ms: float = 2.0) -> Sample:
    return Sample(requests_per_second, p50_ms, p99_ms, envoy_cpu_us=100.0, failures={"failed_requests": 0})


@pytest.mark.parametrize("kb", growth.HEADER_KB)
def test_requests_have_the_headers_of_their_size_and_no_more_than_envoy_takes(kb: int) -> None:
    usual = USUAL.requests(10, 0)[0]
    for request in Point("header_kb", kb).requests(10, 0):
        assert abs(len(request) - len(usual) - kb * 1000) < 20
        assert request.count(b"\r\n") < 100


def test_requests_are_spread_over_all_experiments() -> None:
    requests = Point("experiments", 10).requests(10, 0)
    assert {request.split(b" ")[1].decode() for request in requests} == set(documents.paths(10))


@pytest.mark.parametrize("experiments", growth.EXPERIMENTS)
def test_every_path_is_that_of_one_experiment(experiments: int) -> None:
    document = documents.document(8001, experiments=experiments)
    prefixes = [experiment.match.path_prefix for experiment in document.experiments]
    assert len(prefixes) == experiments
    for number, path in enumerate(documents.paths(experiments)):
        assert [index for index, prefix in enumerate(prefixes) if path.startswith(prefix)] == [number]


def test_every_size_is_measured_once_and_one_thing_grows_at_a_time() -> None:
    points = [point for experiments in growth.EXPERIMENTS for point in growth.points(experiments)]
    assert len(points) == len(set(points))
    for point in points:
        assert (point.experiments > 1) + (point.connections > 16) + (
            point.what in ("header_kb", "new_users_percent")
        ) <= 1


def test_the_usual_cost_stands_in_every_series() -> None:
    found = {("envoy_alone", USUAL): [sample()], ("envoy_alone", Point("experiments", 10)): [sample(500)]}
    rows = growth.rows(found)
    assert [(row["what"], row["size"], row["requests_per_second_ratio"]) for row in rows] == [
        ("experiments", 1, 1.0),
        ("experiments", 10, 0.5),
        ("header_kb", 0, 1.0),
        ("connections", 16, 1.0),
        ("new_users_percent", 0, 1.0),
    ]


def test_what_is_compared_exists() -> None:
    assert set(growth.COMPARED) <= set(BY_NAME)


def test_added_latency_is_the_median_of_each_rounds_own_difference() -> None:
    pairs = [(sample(p99_ms=5), sample(p99_ms=2)), (sample(p99_ms=30), sample(p99_ms=29)), (sample(p99_ms=4), sample())]
    row = half_load.row("ours", 500, pairs)
    assert row["added_p99_ms"] == 2.0
    assert row["added_p99_rounds"] == [3, 1, 2]
    assert (row["p99_ms"], row["reference_p99_ms"]) == (5, 2)
    assert row["failed_streams"] == 0


def test_new_users_are_new_in_every_round_and_as_many_as_requests() -> None:
    new = Point("new_users_percent", 100)
    first, second = set(new.requests(500, 0)), set(new.requests(500, 1))
    assert len(first | second) == 1000
    assert not (first | second) & set(USUAL.requests(500, 0))
