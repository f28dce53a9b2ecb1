from __future__ import annotations

import itertools
import math
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.decision.course import Since, marked, past_strata, since_marks
from controller.decision.history import Memory, PastStage, pack, unpack
from tests.controller.decision.support import NOTHING, arm, course
from tests.controller.support import START

NAMES = ("model-b", "model-a")


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _run(seconds: list[float], memory: Memory | None = None) -> Memory:
    memory = memory or Memory()
    for moment in seconds:
        present = {"model-a": arm(round(moment)), "model-b": arm(round(moment))}
        memory = marked(memory, START, _at(moment), present, NAMES)
    return memory


def test_the_first_mark_is_the_stages_beginning_with_nothing_counted() -> None:
    memory = _run([5])
    assert (memory.marks[0].number, memory.marks[0].at, unpack(memory.marks[0].evidence)) == (1, START, {})
    assert [mark.at for mark in memory.marks] == [START, _at(5)]
    assert memory.marked == 2


def test_a_mark_holds_what_was_counted_without_slices() -> None:
    kept = unpack(_run([500]).marks[-1].evidence)
    assert kept["model-b"].codes[200] == 500
    assert kept["model-b"].slices == {}
    assert sum(kept["model-b"].bins.values()) == 500


def test_moments_are_marked_every_so_often_and_at_most_sixteen_are_kept() -> None:
    memory = _run([5.0 * tick for tick in range(1, 1500)])
    assert len(memory.marks) == 16
    assert memory.marks[0].at == START
    assert [mark.at for mark in memory.marks] == sorted(mark.at for mark in memory.marks)
    numbers = [mark.number for mark in memory.marks]
    assert numbers == sorted(set(numbers))
    assert memory.marked >= numbers[-1]
    # Ages from half a minute to the whole stage, so that harm that began at any time is seen with little dilution.
    ages = sorted((_at(5.0 * 1499) - mark.at).total_seconds() for mark in memory.marks)
    assert ages[0] < 60
    assert all(later / max(earlier, 30) < 4 for earlier, later in itertools.pairwise(ages))


def test_a_moment_that_is_hardly_later_is_not_marked_again() -> None:
    memory = _run([1000])
    assert _run([1001], memory) == memory
    assert _run([1000], memory) == memory


def test_a_clock_that_is_set_back_starts_the_marks_afresh_but_does_not_forget_how_many_there_were() -> None:
    memory = _run([10, 100, 1000])
    back = _run([50], memory)
    assert back.marks[0].at == START
    assert back.marks[0].number == memory.marked + 1
    assert back.marked > memory.marked


def test_what_was_counted_since_a_mark_is_the_difference() -> None:
    present = {"model-a": arm(100, 2), "model-b": arm(100, 40)}
    memory = marked(Memory(), START, _at(60), present, NAMES)
    later = {"model-a": arm(150, 3, ms=200), "model-b": arm(180, 90)}
    start, middle = since_marks(memory.marks, _at(70), later, *NAMES, {})
    assert (start.candidate.requests, start.candidate.errors, start.age) == (180, 90, timedelta(seconds=70))
    assert (middle.candidate.requests, middle.candidate.errors, middle.age) == (80, 50, timedelta(seconds=10))
    assert (middle.control.requests, middle.control.errors) == (50, 1)
    assert middle.control.duration_ms == 150 * 200 - 100 * 100


def test_a_mark_of_this_very_moment_is_left_out() -> None:
    memory = _run([60])
    assert len(since_marks(memory.marks, _at(60), {"model-a": arm(60), "model-b": arm(60)}, *NAMES, {})) == 1


def test_all_weights_together_are_at_most_one() -> None:
    memory = Memory()
    total = 0.0
    seen: set[int] = set()
    for tick in range(1, 400):
        present = {"model-a": arm(tick), "model-b": arm(tick)}
        for mark, since in zip(memory.marks, since_marks(memory.marks, _at(tick), present, *NAMES, {}), strict=False):
            if mark.number not in seen:
                seen.add(mark.number)
                total += math.exp(since.log_weight)
        memory = marked(memory, START, _at(tick), present, NAMES)
    assert len(seen) > 100
    assert 0.5 < total <= 1
    # The rest of the series, bounded by its integral.
    assert total + 1 / (2.11 * math.log(max(seen) + 1)) <= 1 + 1e-3


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=17), st.floats(0, 5))
@settings(deadline=None)
def test_half_of_the_weight_is_on_everything_and_half_on_moments_also_before_there_are_any(
    values: list[float], lighter: float
) -> None:
    since = [Since(-lighter - index, timedelta(1), NOTHING, NOTHING, "") for index in range(len(values) - 1)]
    mixed, row = course(arm(1), arm(1), since=since).mixed(np.array(values))
    expected = math.exp(values[0]) / 2 + sum(
        math.exp(item.log_weight + value) / 2 for item, value in zip(since, values[1:], strict=True)
    )
    assert mixed == pytest.approx(math.log(expected), rel=1e-9, abs=1e-9)
    assert values[row] == max(values) or row == 0 or lighter >= 0
    assert 0 <= row < len(values)


def test_stages_that_are_over_come_back_as_they_were() -> None:
    evidence = {"model-a": arm(10), "model-b": arm(20, 3)}
    weights = {"model-a": 9000, "model-b": 1000}
    past = PastStage(id="x", weights=weights, evidence=pack(evidence), edges={"latency_p95": (100.0,)})
    (stratum,) = past_strata(Memory(past=(past,)), {})
    assert stratum.weights == weights
    assert stratum.variants["model-b"].errors == 3
    assert stratum.edges == {"latency_p95": (100.0,)}
