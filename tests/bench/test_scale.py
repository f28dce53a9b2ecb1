"""A tick over 200 Envoys stays small: recorded answers, served by another process, to a controller in a fresh one.

Speed is claimed in docs/benchmarks.md: about a second. Here is what holds on a busy machine as well: the memory, that
nothing grows faster than the Envoys do, and two and a half times the CPU time, since busy neighbours make it longer.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from bench import fleet
from bench.evidence import run_fresh
from controller.evidence.columns import Parser
from controller.evidence.parse import parse

pytestmark = pytest.mark.process

FEW, MANY = 40, 200


@pytest.fixture(scope="module")
def measured() -> dict[int, dict[str, Any]]:
    """What three ticks of a controller took, by the number of Envoys; the first tick learns their names."""
    return {envoys: run_fresh(envoys, ticks=3) for envoys in (FEW, MANY)}


def _cpu(found: dict[str, Any], part: str = "total") -> float:
    return float(median(tick[part] for tick in found["ticks"][1:]))


@pytest.mark.process
def test_a_tick_over_200_envoys_needs_less_than_300_mb(measured: dict[int, dict[str, Any]]) -> None:
    assert measured[MANY]["peak_mb"] < 300


@pytest.mark.process
def test_a_tick_over_200_envoys_takes_a_second_of_cpu_or_little_more(measured: dict[int, dict[str, Any]]) -> None:
    assert _cpu(measured[MANY]) < 2.5


@pytest.mark.process
@pytest.mark.parametrize("part", ["ask", "parse"])
def test_what_is_done_for_each_envoy_grows_no_faster_than_they_do(
    measured: dict[int, dict[str, Any]], part: str
) -> None:
    """Three times the time for each is allowed for a machine that was busier meanwhile; quadratic growth is five."""
    assert _cpu(measured[MANY], part) / MANY < 3 * _cpu(measured[FEW], part) / FEW


def test_the_fleets_answers_mean_what_the_recorded_one_does() -> None:
    lines = fleet.recorded()
    counts = parse(fleet.answer(lines, 0, 5)).counts("experiment-3")
    later = parse(fleet.answer(lines, 0, 6)).counts("experiment-3")
    assert counts.requests.keys() == later.requests.keys()
    assert all(later.requests[key] > count for key, count in counts.requests.items())
    assert sum(counts.bins.values()) == sum(counts.requests.values())


def test_every_envoy_of_the_fleet_is_read_as_line_by_line() -> None:
    lines, parser = fleet.recorded(), Parser()
    for envoy, moment in ((0, 0), (1, 0), (0, 1), (6, 3)):
        text = fleet.answer(lines, envoy, moment)
        assert parser.parse(text) == parse(text)
