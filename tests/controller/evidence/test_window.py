from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.evidence.counts import Counts, add
from controller.evidence.window import Reading, Window, difference, extend, forget, open_window
from tests.controller.support import START

KEYS = [("a", 1, 200), ("a", 1, 500), ("b", 2, 200)]


def _counts(**by_name: int) -> Counts:
    requests = {("a", 1, 200): by_name.get("ok", 0), ("a", 1, 500): by_name.get("bad", 0)}
    return Counts({key: count for key, count in requests.items() if count})


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _reading(seconds: float, uptime: float | None, *, epoch: int | None = None, **by_name: int) -> Reading:
    return Reading(_at(seconds), uptime, _counts(**by_name), epoch)


def _total(window: Window) -> dict[int, int]:
    return {code: count for (_, _, code), count in window.totals.requests.items() if count}


def test_what_was_counted_before_the_window_is_left_out() -> None:
    window = open_window({"e": _reading(0, 1000, ok=500)}, START)
    assert _total(window) == {}
    assert _total(extend(window, {"e": _reading(5, 1005, ok=530, bad=2)})) == {200: 30, 500: 2}


def test_a_restart_counts_from_nothing_and_keeps_what_was_counted() -> None:
    window = open_window({"e": _reading(0, 1000, ok=500)}, START)
    window = extend(window, {"e": _reading(5, 1005, ok=530)})
    window = extend(window, {"e": _reading(10, 2, ok=7, bad=1)})
    assert _total(window) == {200: 37, 500: 1}


def test_a_restart_is_seen_even_if_every_counter_exceeds_its_old_value() -> None:
    window = open_window({"e": _reading(0, 60, ok=5, bad=5)}, START)
    window = extend(window, {"e": _reading(5, 3, ok=900, bad=100)})
    assert _total(window) == {200: 900, 500: 100}


def test_a_process_that_has_not_flushed_its_statistics_yet_is_a_new_one() -> None:
    window = open_window({"e": _reading(0, 60, ok=5)}, START)
    assert _total(extend(window, {"e": _reading(5, None, ok=8)})) == {200: 8}


def test_a_hot_restarts_first_reading_adds_nothing_because_some_of_it_was_read_before() -> None:
    window = open_window({"e": _reading(0, 1000, epoch=0, ok=500)}, START)
    window = extend(window, {"e": _reading(5, 1005, epoch=0, ok=530)})
    window = extend(window, {"e": _reading(10, 1010, epoch=1, ok=80, bad=1)})
    assert _total(window) == {200: 30}
    assert _total(extend(window, {"e": _reading(15, 1015, epoch=1, ok=90, bad=3)})) == {200: 40, 500: 2}


def test_what_a_predecessor_lent_is_taken_back_when_it_ends_and_that_is_no_restart() -> None:
    """Seen in Envoy 1.40: with the old process go its uptime and the counters that only it had raised."""
    window = open_window({"e": _reading(0, 5, epoch=0, ok=500)}, START)
    window = extend(window, {"e": _reading(1, 14, epoch=1, ok=80, bad=7)})
    window = extend(window, {"e": _reading(2, 14, epoch=1, ok=90, bad=7)})
    window = extend(window, {"e": _reading(2.2, 9, epoch=1, ok=60)})
    assert _total(window) == {200: 10}, "a fall is no difference, and nothing is counted from the start"
    assert _total(extend(window, {"e": _reading(3, 9, epoch=1, ok=65, bad=2)})) == {200: 15, 500: 2}


def test_a_hot_restart_that_has_not_yet_taken_over_counts_is_no_start() -> None:
    window = open_window({"e": _reading(0, 1000, epoch=0, ok=500)}, START)
    window = extend(window, {"e": _reading(5, None, epoch=1, ok=2)})
    assert _total(extend(window, {"e": _reading(6, 1005, epoch=1, ok=900)})) == {}
    window = open_window({"e": _reading(0, None, epoch=1, ok=2)}, START)
    assert _total(extend(window, {"e": _reading(6, 1005, epoch=1, ok=900)})) == {}


@pytest.mark.parametrize("epoch", [0, 3, None])
def test_a_process_that_starts_from_nothing_after_hot_restarts_counts_in_full(epoch: int | None) -> None:
    window = open_window({"e": _reading(0, 1000, epoch=3, ok=500)}, START)
    assert _total(extend(window, {"e": _reading(5, 2, epoch=epoch, ok=30)})) == {200: 30}


def test_an_epoch_that_was_not_known_before_is_no_restart() -> None:
    window = open_window({"e": _reading(0, 1000, ok=500)}, START)
    assert _total(extend(window, {"e": _reading(5, 1005, epoch=2, ok=530)})) == {200: 30}


def test_without_uptimes_a_counter_that_went_back_is_a_restart() -> None:
    window = open_window({"e": _reading(0, None, ok=50)}, START)
    assert _total(extend(window, {"e": _reading(5, None, ok=8)})) == {200: 8}
    assert _total(extend(window, {"e": _reading(5, None, ok=58)})) == {200: 8}


def test_reset_counters_leaves_the_histograms_alone() -> None:
    old = Reading(
        _at(0), 100, Counts({KEYS[0]: 50}, {("a", 1, "duration_ms"): 5000}, {("a", "duration", 0, 100.0, 10.0): 50})
    )
    new = Reading(
        _at(5), 105, Counts({KEYS[0]: 3}, {("a", 1, "duration_ms"): 300}, {("a", "duration", 0, 100.0, 10.0): 53})
    )
    assert difference(old, new) == Counts(
        {KEYS[0]: 3}, {("a", 1, "duration_ms"): 300}, {("a", "duration", 0, 100.0, 10.0): 3}
    )


def test_an_envoy_that_stayed_away_is_counted_in_full_when_it_comes_back() -> None:
    window = open_window({"e": _reading(0, 1000, ok=500), "f": _reading(0, 1000)}, START)
    window = extend(window, {"f": _reading(5, 1005)})
    window = extend(window, {"e": _reading(3600, 4600, ok=800)})
    assert _total(window) == {200: 300}


def test_an_envoy_that_was_unreachable_at_the_start_counts_from_its_first_answer() -> None:
    window = open_window({"e": _reading(0, 1000)}, START)
    window = extend(window, {"f": _reading(100, 2000, ok=5000, bad=5000)})
    assert _total(window) == {}
    assert _total(extend(window, {"f": _reading(105, 2005, ok=5001, bad=5000)})) == {200: 1}


def test_an_envoy_that_started_after_the_window_opened_counts_in_full() -> None:
    window = open_window({"e": _reading(0, 1000)}, START)
    assert _total(extend(window, {"f": _reading(100, 30, ok=12)})) == {200: 12}


def test_an_envoy_that_started_about_when_the_window_opened_does_not() -> None:
    window = open_window({"e": _reading(0, 1000)}, START)
    # Its uptime is as old as its last flush, so that it may have started before the window.
    assert _total(extend(window, {"f": _reading(100, 95, ok=12)})) == {}


def test_nothing_is_counted_if_a_restart_cannot_be_ruled_out() -> None:
    window = open_window({"e": _reading(0, 20, ok=100, bad=100)}, START)
    window = extend(window, {"e": _reading(1000, 100, ok=900, bad=100)})
    assert _total(window) == {}
    assert _total(extend(window, {"e": _reading(1005, 105, ok=905, bad=100)})) == {200: 5}


def test_an_envoys_clock_set_back_is_not_a_restart() -> None:
    window = open_window({"e": _reading(0, 5000, ok=100)}, START)
    assert _total(extend(window, {"e": _reading(5, 1405, ok=110)})) == {200: 10}


def test_a_counter_that_envoy_evicted_keeps_what_it_counted() -> None:
    window = open_window({"e": _reading(0, 1000)}, START)
    window = extend(window, {"e": _reading(5, 1005, ok=10, bad=4)})
    window = extend(window, {"e": _reading(10, 1010, ok=12)})
    window = extend(window, {"e": _reading(15, 1015, ok=12, bad=3)})
    assert _total(window) == {200: 12, 500: 7}


@pytest.mark.parametrize("gap", [0, -100])
def test_our_clock_standing_still_or_going_back_is_not_a_restart(gap: float) -> None:
    window = open_window({"e": _reading(0, 1000, ok=10)}, START)
    assert _total(extend(window, {"e": _reading(gap, 1000, ok=12)})) == {200: 2}


COUNTS = st.builds(Counts, st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2**63)))
READINGS = st.builds(
    Reading, st.integers(-1000, 10_000).map(_at), st.none() | st.floats(0, 10_000) | st.just(2.0**64), COUNTS
)


@given(st.dictionaries(st.sampled_from("efg"), READINGS), st.lists(st.dictionaries(st.sampled_from("efg"), READINGS)))
def test_whatever_envoys_say_nothing_is_ever_negative(
    first: dict[str, Reading], later: list[dict[str, Reading]]
) -> None:
    window = open_window(first, START)
    previous = window.totals.requests
    for readings in later:
        window = extend(window, readings)
        assert all(window.totals.requests[key] >= count for key, count in previous.items())
        previous = window.totals.requests
    assert all(count >= 0 for count in window.totals.requests.values())


@given(st.lists(COUNTS, max_size=5), st.randoms(use_true_random=False))
def test_envoys_add_up_in_any_order(parts: list[Counts], shuffled: random.Random) -> None:
    other = parts[:]
    shuffled.shuffle(other)
    assert add(other) == add(parts)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["serve", "restart", "absent"]), st.sampled_from("ef"), st.integers(0, 50)), max_size=30
)


@given(EVENTS)
def test_never_more_is_counted_than_happened_and_all_of_it_if_nothing_restarted(
    events: list[tuple[str, str, int]],
) -> None:
    """A simulation: two Envoys serve, restart and stay away; the window must agree with the truth."""
    key = KEYS[0]
    started = dict.fromkeys("ef", _at(-5000))
    counted = dict.fromkeys("ef", 1000)
    truth, restarted, now = 0, False, 0.0
    window: Window | None = None
    for kind, envoy, number in [("serve", "e", 0), *events, ("serve", "e", 0)]:
        now += 5
        if kind == "serve":
            counted[envoy] += number
            truth += number if window is not None else 0
        elif kind == "restart":
            started[envoy], counted[envoy], restarted = _at(now - 2), 0, True
        readings = {
            name: Reading(
                _at(now), float(int((_at(now) - started[name]).total_seconds())), Counts({key: counted[name]})
            )
            for name in "ef"
            if (kind, name) != ("absent", envoy)
        }
        window = open_window(readings, _at(now)) if window is None else extend(window, readings)
    assert window is not None
    total = window.totals.requests.get(key, 0)
    assert total <= truth
    if not restarted:
        assert total == truth


def test_one_that_was_started_after_the_window_opened_counts_in_full_whatever_its_uptime() -> None:
    window = open_window({"e": _reading(0, 1000, ok=500)}, START)
    new = replace(_reading(4, 4, ok=9), started=_at(1))
    assert _total(extend(window, {"pod": new})) == {200: 9}
    old = replace(_reading(4, 4, ok=9), started=_at(-1))
    assert _total(extend(window, {"pod": old})) == {}


def test_one_that_is_gone_for_good_is_forgotten_and_what_it_counted_stays() -> None:
    window = open_window({"a": _reading(0, 1000, ok=5), "b": _reading(0, 1000, ok=5)}, START)
    window = extend(window, {"a": _reading(5, 1005, ok=8), "b": _reading(5, 1005, ok=6)})
    assert forget(window, None) is window
    assert forget(window, frozenset({"a", "b", "c"})) is window
    after = forget(window, frozenset({"a"}))
    assert (list(after.seen), _total(after)) == (["a"], {200: 4})
