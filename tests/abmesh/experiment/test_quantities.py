"""Weights, shares and durations as people write them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.quantities import (
    format_duration,
    format_percent,
    format_share,
    format_size,
    format_weight,
    parse_duration,
    parse_share,
    parse_size,
    parse_weight,
)


class TestWeight:
    @pytest.mark.parametrize(
        ("written", "points"),
        [
            (90, 9000),
            (12.5, 1250),
            (0.25, 25),
            ("12.50", 1250),
            (33.33, 3333),
            (0, 0),
            (100, 10_000),
            (1e1, 1000),
            ("12." + "0" * 99, 1200),
        ],
    )
    def test_is_percent_with_two_decimals(self, written: object, points: int) -> None:
        assert parse_weight(written) == points

    @pytest.mark.parametrize(
        "written",
        [
            0.001,
            "99." + "9" * 31,
            "0." + "0" * 99 + "1",
            "100." + "0" * 40 + "1",
            pytest.param(10**5000, id="huge"),
            100.01,
            -1,
            -0.01,
            True,
            None,
            "",
            "ten",
            "1_0",
            " 10",
            "10%",
            "\uff11\uff10",
            "1e1",
            [],
            float("nan"),
            float("inf"),
        ],
    )
    def test_is_nothing_else(self, written: object) -> None:
        assert parse_weight(written) is None

    @given(st.integers(0, 10_000))
    def test_survives_being_written(self, points: int) -> None:
        written = format_weight(points)
        assert format_percent(points) == f"{written}%"
        assert parse_weight(written) == parse_weight(float(written)) == parse_weight(Decimal(written)) == points
        assert len(written) <= 5
        assert not written.endswith((".", "0")) or "." not in written

    @given(st.text() | st.floats() | st.integers() | st.decimals())
    def test_of_anything_is_a_weight_or_none(self, value: object) -> None:
        points = parse_weight(value)
        assert points is None or 0 <= points <= 10_000


class TestShare:
    @pytest.mark.parametrize(
        ("written", "share"),
        [("5%", 0.05), ("0.5%", 0.005), ("100%", 1), ("20 %", 0.2), (0.05, 0.05), (1, 1), (0, 0)],
    )
    def test_is_a_percentage_or_a_fraction(self, written: object, share: float) -> None:
        assert parse_share(written) == pytest.approx(share)

    @pytest.mark.parametrize(
        "written", ["5", "101%", "-1%", "%", "1_0%", "nan%", "inf%", 1.1, -0.1, 5, True, None, float("nan"), 10**400]
    )
    def test_is_nothing_else(self, written: object) -> None:
        assert parse_share(written) is None

    @given(st.text() | st.text("0123456789.% e-") | st.floats() | st.integers())
    def test_of_anything_is_a_share_or_none(self, value: object) -> None:
        share = parse_share(value)
        assert share is None or 0 <= share <= 1

    def test_is_shown_with_three_digits(self) -> None:
        assert [format_share(share) for share in (0.0123, 0.5, 1.0, 0.0)] == ["1.23%", "50%", "100%", "0%"]
        assert format_share(0.123456, digits=4) == "12.35%"


class TestDuration:
    @pytest.mark.parametrize(
        ("written", "duration"),
        [
            ("500ms", timedelta(milliseconds=500)),
            ("30s", timedelta(seconds=30)),
            ("1h30m", timedelta(minutes=90)),
            ("0.5h", timedelta(minutes=30)),
            ("2d", timedelta(days=2)),
            ("0s", timedelta()),
        ],
    )
    def test_is_numbers_with_units(self, written: str, duration: timedelta) -> None:
        assert parse_duration(written) == duration

    @pytest.mark.parametrize(
        "written", ["", "30", "s", "1w", "-1s", "1 h", "3651d", "9" * 400 + "d", "1h 30m", "\u0663s", "1.s", "30S"]
    )
    def test_is_nothing_else(self, written: str) -> None:
        assert parse_duration(written) is None

    @given(st.integers(0, 3650 * 86_400_000).map(lambda ms: timedelta(milliseconds=ms)))
    def test_survives_being_written(self, duration: timedelta) -> None:
        assert parse_duration(format_duration(duration)) == duration

    def test_is_written_in_the_shortest_way(self) -> None:
        shown = [format_duration(timedelta(seconds=seconds)) for seconds in (3600, 90, 0.25, 0, 90061)]
        assert shown == ["1h", "1m30s", "250ms", "0s", "1d1h1m1s"]

    @given(st.text("0123456789.msh d"))
    def test_of_any_text_is_a_duration_or_none(self, text: str) -> None:
        duration = parse_duration(text)
        assert duration is None or timedelta() <= duration <= timedelta(days=3650)


class TestSize:
    @pytest.mark.parametrize(
        ("written", "size"),
        [("64MB", 64_000_000), ("100kB", 100_000), ("1.5GB", 1_500_000_000), ("10GB", 10**10), ("0.1MB", 100_000)],
    )
    def test_is_a_number_with_a_unit(self, written: str, size: int) -> None:
        assert parse_size(written) == size

    @pytest.mark.parametrize(
        "written",
        ["", "64", "64 MB", "64mb", "64MiB", "-1MB", "1e3MB", "99.9kB", "10.1GB", "9" * 40 + "GB", "\uff11MB", "1MB\n"],
    )
    def test_is_nothing_else(self, written: str) -> None:
        assert parse_size(written) is None

    @given(st.integers(100, 10_000_000).map(lambda kilobytes: 1000 * kilobytes))
    def test_survives_being_written(self, size: int) -> None:
        assert parse_size(format_size(size)) == size

    def test_is_written_in_the_largest_unit(self) -> None:
        assert [format_size(size) for size in (64_000_000, 1_500_000_000, 100_000)] == ["64MB", "1.5GB", "100kB"]

    @given(st.text())
    def test_of_any_text_is_a_size_or_none(self, text: str) -> None:
        size = parse_size(text)
        assert size is None or 100_000 <= size <= 10**10
