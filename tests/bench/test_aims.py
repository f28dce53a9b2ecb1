"""Ratios between contenders, and whether they are what was aimed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.aims import COMPARISONS, Comparison, missed, ratios
from bench.contenders import BY_NAME
from bench.summary import Sample


def sample(requests_per_second: float = 1000, server: float | None = None) -> Sample:
    return Sample(requests_per_second, 1.0, 2.0, envoy_cpu_us=100.0, server_cpu_us=server)


CPU = Comparison("server_cpu_us", "ours", "theirs", most=0.125)
SPEED = Comparison("requests_per_second", "ours", "theirs", least=0.95)


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    """The machine was slower from round to round, for both."""
    ours = [sample(server=10), sample(server=40), sample(server=20)]
    theirs = [sample(server=100), sample(server=200), sample(server=400)]
    (row,) = ratios({"ours": ours, "theirs": theirs}, [CPU])
    assert row["rounds"] == [0.1, 0.2, 0.05]
    assert (row["ratio"], row["aim"], row["met"]) == (0.1, "≤ 0.125", True)


@pytest.mark.parametrize(("speed", "met"), [(949, False), (950, True), (2000, True)])
def test_an_aim_at_the_least_is_met_from_there_on(speed: float, met: bool) -> None:
    (row,) = ratios({"ours": [sample(speed)], "theirs": [sample(1000)]}, [SPEED])
    assert (row["aim"], row["met"]) == ("≥ 0.95", met)
    assert missed([row]) == ([] if met else [row])


def test_a_comparison_without_an_aim_is_neither_met_nor_missed() -> None:
    (row,) = ratios({"ours": [sample()], "theirs": [sample()]}, [Comparison("p99_ms", "ours", "theirs")])
    assert (row["aim"], row["met"]) == ("", None)
    assert missed([row]) == []


def test_what_was_not_measured_is_not_compared() -> None:
    assert ratios({"ours": [sample(server=1)]}, [CPU]) == []


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=9), st.floats(0.01, 100))
def test_a_contender_that_is_always_so_many_times_as_fast_has_that_ratio(speeds: list[float], times: float) -> None:
    ours, theirs = [sample(speed * times) for speed in speeds], [sample(speed) for speed in speeds]
    (row,) = ratios({"ours": ours, "theirs": theirs}, [SPEED])
    assert row["ratio"] == pytest.approx(times, abs=0.001)


def test_comparisons_are_of_contenders_that_there_are() -> None:
    assert {name for one in COMPARISONS for name in (one.of, one.to)} <= set(BY_NAME)


def test_the_aims_are_those_that_were_set() -> None:
    aims = {(one.figure, one.of, one.to): one.aim for one in COMPARISONS if one.aim}
    assert aims == {
        ("server_cpu_us", "nghttp2_1_worker", "grpcio_1_worker"): "≤ 0.125",
        ("server_cpu_us", "nghttp2_1_worker", "go_1_processor"): "≤ 1",
        ("requests_per_second", "nghttp2_1_worker", "go_1_processor"): "≥ 1",
        ("requests_per_second", "native_split", "envoy_alone"): "≥ 0.95",
        ("requests_per_second", "native_alone", "envoy_alone"): "≥ 0.95",
    }
