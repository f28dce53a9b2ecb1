"""Medians, ratios and the list of what went wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.summary import Reaction, Sample, problems, reaction, row

NONE_FAILED = {"failed_requests": 0, "streams_failed": 0}


def sample(requests_per_second: float = 1000, p50_ms: float = 10, **more: object) -> Sample:
    values: dict[str, object] = {"p99_ms": 20.0, "envoy_cpu_us": 100.0, "failures": NONE_FAILED, **more}
    return Sample(requests_per_second, p50_ms, **values)  # type: ignore[arg-type]  # values of several types


def test_figures_are_medians_of_the_rounds() -> None:
    samples = [sample(900, 9), sample(1000, 11), sample(100, 200)]
    found = row("alone", samples, samples)
    assert (found["requests_per_second"], found["p50_ms"]) == (900, 11)
    assert found["requests_per_second_rounds"] == [900, 1000, 100]


def test_a_ratio_compares_rounds_with_each_other_not_medians() -> None:
    """In each round the path is half as fast, though the machine itself was slower from round to round."""
    reference = [sample(4000, 1), sample(2000, 2), sample(1000, 4)]
    mine = [sample(2000, 2), sample(1000, 4), sample(500, 8)]
    found = row("mine", mine, reference)
    assert (found["requests_per_second_ratio"], found["p50_ratio"]) == (0.5, 2.0)
    shuffled = row("mine", [mine[1], mine[2], mine[0]], reference)
    assert shuffled["requests_per_second_ratio"] != 0.5 or shuffled["p50_ratio"] != 2.0


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=9))
def test_the_reference_is_once_itself(speeds: list[float]) -> None:
    samples = [sample(speed) for speed in speeds]
    found = row("alone", samples, samples)
    assert (found["requests_per_second_ratio"], found["p50_ratio"]) == (1, 1)


def test_a_path_without_a_server_has_no_figures_of_one() -> None:
    found = row("alone", [sample()], [sample()])
    assert (found["server_cpu_us"], found["rss_mb"], found["worker_shares"]) == (None, None, [])


def test_a_server_has_its_cpu_memory_and_split() -> None:
    samples = [
        sample(server_cpu_us=400.4, rss_mb=61.04, shares=(0.6, 0.4)),
        sample(server_cpu_us=500.0, rss_mb=62.0, shares=(0.7, 0.3)),
        sample(server_cpu_us=300.0, rss_mb=60.0, shares=(0.5, 0.5)),
    ]
    found = row("two", samples, samples)
    assert (found["server_cpu_us"], found["rss_mb"], found["worker_shares"]) == (400.4, 61.0, [0.6, 0.4])


def test_failures_are_summed_over_rounds_and_told_by_name() -> None:
    samples = [sample(), sample(failures={"failed_requests": 2, "streams_failed": 0})]
    samples.append(sample(failures={"failed_requests": 1, "streams_failed": 4}))
    found = row("mine", samples, samples)
    assert found["failed_streams"] == 7
    (line,) = problems([row("good", [sample()], [sample()]), found])
    assert line == "mine: 7 failed streams (3 failed_requests, 4 streams_failed); allowed: none"


def test_a_run_without_failures_has_no_problems() -> None:
    assert problems([row("good", [sample()], [sample()])]) == []


def test_a_reaction_has_its_median_and_its_worst() -> None:
    found = reaction(Reaction("edit", "from an edit until it shows", (0.2, 0.1, 0.9004)))
    assert (found["median_s"], found["max_s"]) == (0.2, 0.9)
    assert found["seconds"] == [0.2, 0.1, 0.9]
