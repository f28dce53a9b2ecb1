"""The assignment law and its ranges."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from abmesh.experiment.bucketing import (
    Ranges,
    bucket_of,
    cells,
    group_of,
    initial_ranges,
    reallocate,
    runs,
    slice_at,
    width,
)
from abmesh.experiment.names import BUCKETS
from tests.abmesh.experiment.documents import weights_of

LETTERS = "abcdefghij"


def named(weights: list[int]) -> dict[str, int]:
    return dict(zip(LETTERS, weights, strict=False))


many_weights = st.integers(1, 10).flatmap(weights_of).map(named)


@st.composite
def many_ranges(draw: st.DrawFn) -> dict[str, tuple[tuple[int, int], ...]]:
    """Ranges that cover bucket space, scattered at will."""
    borders = sorted({0, BUCKETS, *draw(st.lists(st.integers(1, BUCKETS - 1), max_size=15))})
    parts = list(itertools.pairwise(borders))
    owners = draw(st.lists(st.sampled_from(LETTERS), min_size=len(parts), max_size=len(parts)))
    names = draw(st.permutations(sorted(set(owners))))
    return {name: tuple(part for part, owner in zip(parts, owners, strict=True) if owner == name) for name in names}


def owners_of(ranges: Ranges) -> list[str]:
    """The owner of every bucket; fails if one has none or two."""
    table: list[str | None] = [None] * BUCKETS
    for name, parts in ranges.items():
        for start, stop in parts:
            assert 0 <= start < stop <= BUCKETS
            assert set(table[start:stop]) == {None}
            table[start:stop] = [name] * (stop - start)
    assert None not in table
    return [name for name in table if name is not None]


class TestBucket:
    @given(st.text(alphabet="abc.-_", min_size=1), st.binary())
    def test_is_the_hash_of_salt_colon_unit(self, salt: str, unit: bytes) -> None:
        assert bucket_of(salt, unit) == xxhash.xxh64(salt.encode() + b":" + unit, seed=0).intdigest() % 10_000

    def test_is_spread_evenly(self) -> None:
        tenths = [0] * 10
        for number in range(20_000):
            tenths[bucket_of("salt", b"user-%d" % number) // 1000] += 1
        # Chi-squared with 9 degrees of freedom: 27.9 at p = 0.001.
        assert sum((count - 2000) ** 2 / 2000 for count in tenths) < 27.9

    def test_salts_are_independent(self) -> None:
        units = [b"user-%d" % number for number in range(20_000)]
        both = sum(bucket_of("one", unit) < 5000 and bucket_of("two", unit) < 5000 for unit in units)
        assert abs(both - 5000) < 4 * (20_000 * 0.25 * 0.75) ** 0.5


class TestInitialRanges:
    @given(many_weights)
    def test_cover_every_bucket_with_the_weights_as_widths(self, weights: Mapping[str, int]) -> None:
        ranges = initial_ranges(weights)
        owners_of(ranges)
        assert {name: width(parts) for name, parts in ranges.items()} == weights

    def test_stand_in_the_order_of_the_weights(self) -> None:
        ranges = initial_ranges({"a": 9000, "b": 0, "c": 1000})
        assert ranges == {"a": ((0, 9000),), "b": (), "c": ((9000, 10_000),)}


class TestReallocate:
    @given(many_ranges(), many_weights)
    @example({"a": ((0, 10_000),)}, {"b": 10_000})
    def test_covers_every_bucket_with_the_weights_as_widths(self, ranges: Ranges, weights: Mapping[str, int]) -> None:
        fitted = reallocate(ranges, weights)
        owners_of(fitted)
        assert {name: width(parts) for name, parts in fitted.items()} == weights
        assert list(fitted) == list(weights)

    @given(many_ranges(), many_weights)
    def test_moves_as_few_buckets_as_possible(self, ranges: Ranges, weights: Mapping[str, int]) -> None:
        moved = sum(
            old != new for old, new in zip(owners_of(ranges), owners_of(reallocate(ranges, weights)), strict=True)
        )
        # Whoever shrinks must give what it shrinks by, and nobody has to give more.
        assert moved == sum(max(0, width(parts) - weights.get(name, 0)) for name, parts in ranges.items())

    @given(many_ranges(), many_weights)
    def test_only_shrinking_variants_give_up_buckets_and_only_growing_ones_take_them(
        self, ranges: Ranges, weights: Mapping[str, int]
    ) -> None:
        for old, new in zip(owners_of(ranges), owners_of(reallocate(ranges, weights)), strict=True):
            if old != new:
                assert weights.get(old, 0) < width(ranges[old])
                assert weights[new] > width(ranges.get(new, ()))

    @given(many_ranges(), many_weights)
    def test_done_twice_changes_nothing(self, ranges: Ranges, weights: Mapping[str, int]) -> None:
        once = reallocate(ranges, weights)
        assert reallocate(once, weights) == once

    @given(many_weights)
    def test_to_the_weights_that_they_have_changes_nothing(self, weights: Mapping[str, int]) -> None:
        assert reallocate(initial_ranges(weights), weights) == initial_ranges(weights)

    @given(many_ranges(), many_weights)
    def test_parts_are_sorted_and_never_touch(self, ranges: Ranges, weights: Mapping[str, int]) -> None:
        for parts in reallocate(ranges, weights).values():
            assert all(first[1] < second[0] for first, second in itertools.pairwise(parts))

    @given(weights_of(2), st.lists(weights_of(2), min_size=1, max_size=4))
    def test_two_variants_keep_the_ranges_that_follow_from_their_weights(
        self, first: list[int], later: list[list[int]]
    ) -> None:
        ranges = initial_ranges(named(first))
        for weights in later:
            ranges = reallocate(ranges, named(weights))
            assert ranges == initial_ranges(named(weights))

    @given(st.integers(2, 5), st.data())
    def test_no_user_leaves_a_growing_variant(self, count: int, data: st.DataObject) -> None:
        names = LETTERS[:count]
        grower = data.draw(st.sampled_from(names[1:]))
        ranges = initial_ranges({names[0]: BUCKETS, **dict.fromkeys(names[1:], 0)})
        members: set[int] = set()
        for step in (500, 1000, 2500, 5000, 7500, 10_000):
            rest = data.draw(weights_of(count - 1))
            left = [part * (BUCKETS - step) // BUCKETS for part in rest]
            left[0] += BUCKETS - step - sum(left)
            weights = dict(zip([name for name in names if name != grower], left, strict=True))
            ranges = reallocate(ranges, {name: weights.get(name, step) for name in names})
            now = {bucket for bucket, owner in enumerate(owners_of(ranges)) if owner == grower}
            assert members <= now
            members = now

    def test_growing_one_of_three_takes_only_from_those_that_shrink(self) -> None:
        ranges = initial_ranges({"a": 5000, "b": 3000, "c": 2000})
        assert reallocate(ranges, {"a": 4000, "b": 3000, "c": 3000}) == {
            "a": ((0, 4000),),
            "b": ((5000, 8000),),
            "c": ((4000, 5000), (8000, 10_000)),
        }

    def test_what_is_free_is_taken_from_the_lowest_bucket_on(self) -> None:
        ranges = {"c": ((0, 5000),), "a": ((5000, 10_000),)}
        assert reallocate(ranges, {"a": 4000, "b": 1000, "d": 1000, "c": 4000}) == {
            "a": ((5000, 9000),),
            "b": ((0, 1000),),
            "d": ((9000, 10_000),),
            "c": ((1000, 5000),),
        }


class TestSlices:
    @given(st.integers(1, BUCKETS), st.integers(10, 100))
    def test_are_balanced_and_in_order(self, variant_width: int, slices: int) -> None:
        counts = [0] * slices
        previous = 0
        for position in range(variant_width):
            cell = slice_at(position, variant_width, slices)
            assert cell >= previous
            previous = cell
            counts[cell] += 1
        assert max(counts) - min(counts) <= 1

    @given(st.integers(10, 100))
    def test_groups_are_balanced_and_in_order(self, slices: int) -> None:
        groups = [group_of(slice_, slices) for slice_ in range(slices)]
        assert groups == sorted(groups)
        assert set(groups) == set(range(10))
        sizes = [groups.count(group) for group in range(10)]
        assert max(sizes) - min(sizes) <= 1


class TestPlaces:
    @given(many_ranges(), st.integers(10, 100))
    def test_follow_ranges_and_slices(self, ranges: Ranges, slices: int) -> None:
        table = cells(ranges, slices)
        assert [cell.variant for cell in table] == owners_of(ranges)
        for name, parts in ranges.items():
            mine = [cell for cell in table if cell.variant == name]
            assert [cell.slice for cell in mine] == [slice_at(i, width(parts), slices) for i in range(len(mine))]
            assert all(cell.group == group_of(cell.slice, slices) for cell in mine)

    def test_of_ranges_with_a_hole_are_refused(self) -> None:
        with pytest.raises(ValueError, match="1 of 10000 buckets are in no range"):
            cells({"a": ((0, 9999),)}, 10)


@given(many_ranges(), st.integers(10, 100))
def test_runs_are_the_places_with_neighbours_together(ranges: Ranges, slices: int) -> None:
    found = runs(ranges, slices)
    assert [run.cell for run in found for _ in range(run.start, run.stop)] == list(cells(ranges, slices))
    assert all(one.cell != other.cell and one.stop == other.start for one, other in itertools.pairwise(found))
