"""Counts kept as arrays behave as plain dictionaries do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controller.evidence import counts as module
from controller.evidence.counts import NOTHING, Counts, Index, Series, add, values_of

LARGE = st.sampled_from([2**31, 2**32, 2**47, 2**48 - 1, 2**48, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
NUMBERS = st.integers(0, 20) | LARGE
REQUESTS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from([0, 200])), NUMBERS, max_size=4
)
AMOUNTS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from(["duration_ms", "events:click"])),
    NUMBERS,
    max_size=4,
)
BINS = st.dictionaries(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["duration", "ttft"]),
        st.integers(0, 2) | st.sampled_from(["power", "other"]),
        st.sampled_from([1.0, 2.5]),
        st.just(0.1),
    ),
    NUMBERS,
    max_size=4,
)
SEGMENTS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["power", "other"]), st.sampled_from([0, 200, "usage"])),
    NUMBERS,
    max_size=4,
)
PLAIN = st.tuples(REQUESTS, AMOUNTS, BINS, SEGMENTS)
Plain = tuple[dict[Any, int], dict[Any, int], dict[Any, int], dict[Any, int]]


def _plain(counts: Counts) -> Plain:
    return dict(counts.requests), dict(counts.amounts), dict(counts.bins), dict(counts.segments)


def _under(index: Index, plain: Plain) -> Counts:
    """Counts that share the numbers of their keys, as those that one parser reads do."""
    return Counts.of(
        Series.of(index.counters, {**plain[0], **plain[1], **plain[3]}),
        Series.of(index.bins, plain[2]),
    )


@given(PLAIN)
def test_counts_return_what_they_were_made_of(plain: Plain) -> None:
    counts = Counts(*plain)
    assert _plain(counts) == plain
    assert bool(counts) == any(plain)
    assert all(type(count) is int for part in _plain(counts) for count in part.values())


@given(PLAIN, PLAIN)
def test_counts_are_equal_if_all_their_keys_and_counts_are(one: Plain, other: Plain) -> None:
    index = Index()
    for left, right in ((Counts(*one), Counts(*other)), (_under(index, one), _under(index, other))):
        assert (left == right) == (one == other)
        assert left == Counts(*one)
        assert hash(left) == hash(Counts(*one))
    assert NOTHING != "nothing"


@given(st.lists(PLAIN, max_size=4), st.booleans())
def test_sums_are_exact_whatever_the_size_of_the_counts(parts: list[Plain], shared: bool) -> None:
    expected: Plain = ({}, {}, {}, {})
    for part in parts:
        for total, found in zip(expected, part, strict=True):
            for key, count in found.items():
                total[key] = total.get(key, 0) + count
    index = Index()
    assert _plain(add(_under(index, part) if shared else Counts(*part) for part in parts)) == expected


def test_more_parts_than_small_numbers_allow_are_exact() -> None:
    part = Counts({("a", 0, 200): 2**48 - 1})
    many = module.MOST_PARTS + 3
    assert add([part] * many).requests == {("a", 0, 200): (2**48 - 1) * many}


@given(PLAIN, PLAIN, st.booleans())
def test_what_grew_is_the_difference_of_each_count(old: Plain, new: Plain, shared: bool) -> None:
    index = Index()
    before, after = (_under(index, part) if shared else Counts(*part) for part in (old, new))

    def grown(new: Mapping[Any, int], old: Mapping[Any, int]) -> dict[Any, int]:
        return {key: count - old.get(key, 0) for key, count in new.items() if count > old.get(key, 0)}

    counters, counters_back = after.counters.since(before.counters)
    histograms, histograms_back = after.histograms.since(before.histograms)
    assert dict(counters.items()) == {
        key: count for part in (0, 1, 3) for key, count in grown(new[part], old[part]).items()
    }
    assert dict(histograms.items()) == grown(new[2], old[2])
    fell = [
        any(now[key] < count for key, count in was.items() if key in now) for was, now in zip(old, new, strict=True)
    ]
    assert (counters_back, histograms_back) == (fell[0] or fell[1] or fell[3], fell[2])


@given(st.lists(NUMBERS))
def test_counts_that_fit_are_kept_in_few_bytes(numbers: list[int]) -> None:
    values = values_of(numbers)
    assert values.tolist() == numbers
    largest = max(numbers, default=0)
    assert values.dtype == (np.int32 if largest < 2**31 else np.int64 if largest < 2**48 else object)
