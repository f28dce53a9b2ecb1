"""Evidence of the last minutes is the difference of what was known then and now."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controller.evidence.counts import Counts
from controller.evidence.recent import SPANS, Mark, lately, mark
from controller.evidence.summary import VariantEvidence, summarize
from tests.controller.support import START

MINUTE, TEN_MINUTES = SPANS


def _evidence(requests: int, errors: int = 0) -> dict[str, VariantEvidence]:
    counts = Counts(
        {("model-b", 1, 200): requests - errors, ("model-b", 7, 500): errors},
        {("model-b", 1): requests * 10},
        {("model-b", 0, 10.0, 1.0): requests - errors, ("model-b", 3, 90.0, 10.0): errors},
    )
    return summarize(counts, ["model-b"])


def _after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_stage_that_is_younger_than_a_minute_has_no_last_minute() -> None:
    marks = mark((), START, _evidence(10))
    assert lately(marks, _after(59), _evidence(20)) == []
    assert [span for span, _ in lately(marks, _after(60), _evidence(20))] == [MINUTE]


def test_what_was_counted_lately_is_the_difference() -> None:
    marks = mark((), START, _evidence(1000))
    ((span, counted),) = lately(marks, _after(61), _evidence(1100, errors=40))
    assert span == timedelta(seconds=61)
    found = counted["model-b"]
    assert (found.requests, found.errors, found.duration_ms) == (100, 40, 1000)
    assert found.bins == {(10.0, 1.0): 60, (90.0, 10.0): 40}


def test_a_variant_that_was_not_known_then_counts_in_full() -> None:
    ((_, counted),) = lately((Mark(START, {}),), _after(60), _evidence(30, errors=3))
    assert (counted["model-b"].requests, counted["model-b"].errors) == (30, 3)


def test_a_clock_that_is_set_back_starts_anew() -> None:
    marks = mark((), START, _evidence(10))
    assert [item.at for item in mark(marks, _after(-100), _evidence(20))] == [_after(-100)]


@given(st.lists(st.floats(0.2, 40), min_size=1, max_size=400))
def test_marks_are_few_and_reach_both_spans(pauses: list[float]) -> None:
    marks: tuple[Mark, ...] = ()
    seconds = 0.0
    for number, pause in enumerate(pauses):
        marks = mark(marks, _after(seconds), _evidence(number))
        now = _after(seconds + pause)
        found = lately(marks, now, _evidence(number + 1))
        assert len(marks) <= 30
        assert [item.at for item in marks] == sorted(item.at for item in marks)
        age = now - START
        assert len(found) == sum(age >= span for span in SPANS)
        for (length, counted), span in zip(found, SPANS, strict=False):
            # Marks are a tenth of a span apart, and one look may come as late as the longest pause.
            assert span <= length <= span * 1.1 + timedelta(seconds=40)
            assert counted["model-b"].requests >= 0
        seconds += pause
