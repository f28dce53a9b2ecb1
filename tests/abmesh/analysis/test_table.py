"""Reading a CSV of results: both forms, what is refused and how, and a million users in little memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.analysis import table_cells, table_reader, table_users
from abmesh.analysis.columns import LONGEST_LINE
from abmesh.analysis.table import Table
from abmesh.analysis.table_reader import read_table
from abmesh.experiment.errors import DataError


def read(text: str) -> Table:
    return read_table(text.splitlines(keepends=True), "r.csv")


class TestAggregates:
    def test_events_of_each_variant(self) -> None:
        found = read("variant,n,sum\na,1000,20\nb,900,27\n")
        assert (found.kind, found.share, found.variants) == ("rate", True, ("a", "b"))
        part = found.part("")
        assert (part["b"].n, part["b"].y) == (900, 27)

    def test_columns_in_any_order_and_case_with_blanks_a_byte_order_mark_and_empty_lines(self) -> None:
        found = read("\ufeffSum, N ,Variant\r\n\r\n20,1000.0, a \r\n27,900,b\r\n\r\n")
        assert found.part("")["a"].n == 1000
        assert found.variants == ("a", "b")

    def test_squares_make_it_a_mean(self) -> None:
        found = read("variant,n,sum,sum_squares\na,3000,1396.87,52377.9767\nb,3461,2422.7,134698.29\n")
        assert (found.kind, found.share) == ("mean", False)
        assert found.part("")["a"].yy == 52377.9767

    def test_segments_and_stages_are_added_up_as_asked(self) -> None:
        rows = ["a,10,1,x,1", "a,20,2,y,1", "b,30,3,x,1", "b,5,1,x,2", "a,7,0,x,2"]
        found = read("variant,n,sum,segment,stage\n" + "\n".join(rows))
        assert (found.stages, found.segments) == (("1", "2"), ("x", "y"))
        assert found.part("1")["a"].n == 30
        assert set(found.part("1", "y")) == {"a"}
        assert found.part("2", "x")["b"].y == 1

    def test_rows_over_time_are_cumulative_and_the_last_one_is_final(self) -> None:
        found = read("variant,n,sum,time\na,10,1,2\nb,10,2,1\na,5,0,1\nb,30,3,3\n")
        assert [at for at, _ in found.history] == [1, 2, 3]
        assert not found.dated
        assert (found.part("")["a"].n, found.part("")["b"].n) == (10, 30)
        _, second = found.history[1]
        moment = found.part("", cells=second)
        assert (moment["a"].n, moment["b"].n) == (10, 10)

    def test_a_variant_whose_n_falls_is_left_out_and_named(self) -> None:
        found = read("variant,n,sum,time\na,5,1,1\nb,5,1,1\nc,5,1,1\nc,4,1,2\na,9,2,2\nb,8,2,2\nc,10,2,3\n")
        assert found.variants == ("a", "b")
        assert [at for at, _ in found.history] == [1, 2]
        (warning,) = found.warnings
        assert warning.startswith("variant c is left out: rows are cumulative, but n is 5 on line 4 and 4 on line 5;")

    def test_a_segment_in_which_any_n_falls_is_left_out_of_every_variant(self) -> None:
        """The others would otherwise be compared with users of whom some are missing."""
        rows = ["a,9,1,1,x", "b,9,1,1,x", "a,7,1,1,y", "b,7,1,1,y", "a,20,2,2,x", "b,6,1,2,y", "b,21,3,2,x"]
        found = read("variant,n,sum,time,segment\n" + "\n".join(rows))
        assert found.segments == ("x",)
        assert {name: totals.n for name, totals in found.part("").items()} == {"a": 20, "b": 21}
        (warning,) = found.warnings
        assert warning.startswith(
            "segment y is left out: rows are cumulative, but n of b is 7 on line 5 and 6 on line 7"
        )

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_columns_may_be_separated_by_what_spreadsheets_write(self, separator: str) -> None:
        found = read(
            'variant,n,sum\n"a, too",1000,20\nb,900,27\n'.replace(",", separator).replace("a" + separator, "a,")
        )
        assert found.part("")["a, too"].n == 1000

    def test_dates_are_seconds_in_utc(self) -> None:
        text = "variant,n,sum,time\na,1,0,1970-01-01T01:00:00Z\nb,1,0,1970-01-02\nb,2,0,1970-01-02T01:00:00+01:00\n"
        with pytest.raises(DataError, match="the same variant twice at one time"):
            read(text)
        found = read(text.replace("01:00:00+", "02:00:00+"))
        assert found.dated
        assert [at for at, _ in found.history] == [3600, 86400, 90000]


class TestUsers:
    def test_rows_are_added_up_over_groups_of_users(self) -> None:
        found = read("variant,user,n,sum\na,u1,3,1\na,u2,1,0\nb,u3,2,2\na,u1,4,1\n")
        part = found.part("")
        assert (found.kind, found.share) == ("ratio", True)
        assert (part["a"].n, part["a"].y) == (8, 2)
        slices = part["a"].slices
        assert slices is not None
        assert sorted(slices.n[slices.n > 0]) == [1, 7]
        assert found.users == {("", "a"): 2, ("", "b"): 1}
        assert found.shared_users == 0

    def test_values_beyond_one_a_request_are_no_shares(self) -> None:
        assert not read("variant,user,n,sum\na,u1,3,3.5\nb,u2,1,0\n").share
        assert not read("variant,user,n,sum\na,u1,3,-0.5\nb,u2,1,0\n").share

    def test_users_in_two_variants_are_noticed(self) -> None:
        assert read("variant,user,n,sum\na,u1,1,0\nb,u1,1,0\nb,u2,1,0\n").shared_users == 1

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 9)), min_size=1), st.randoms())
    def test_the_order_of_rows_and_how_a_users_sum_is_split_do_not_matter(
        self, rows: list[tuple[str, int, int]], shuffle: random.Random
    ) -> None:
        fixed = [("a", 99, 1), ("b", 98, 1)]
        lines = [f"{variant},u{user},{n + 1},{n}\n" for variant, user, n in fixed + rows]
        split = [f"{variant},u{user},1,0\n" for variant, user, _ in fixed + rows]
        split += [f"{variant},u{user},{n},{n}\n" for variant, user, n in fixed + rows]
        shuffle.shuffle(split)
        whole, parts = read("variant,user,n,sum\n" + "".join(lines)), read("variant,user,n,sum\n" + "".join(split))
        for name in ("a", "b"):
            one, other = whole.part("")[name].slices, parts.part("")[name].slices
            assert one is not None
            assert other is not None
            assert one.n.tolist() == other.n.tolist()
            assert one.y.tolist() == other.y.tolist()
        assert whole.users == parts.users

    def test_memory_does_not_grow_with_the_rows_beyond_a_hash_each(self) -> None:
        def lines(count: int) -> Iterator[str]:
            yield "variant,user,n,sum\n"
            for number in range(count):
                yield f"{'ab'[number % 2]},user-{number},{number % 7 + 1},{number % 2}\n"

        read_table(lines(10), "warm.csv")
        peaks = []
        for count in (20_000, 60_000):
            tracemalloc.start()
            read_table(lines(count), "r.csv")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (peaks[1] - peaks[0]) / 40_000 < 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.csv:1: the file is empty; allowed: a first line that names columns, such as variant, user, n, sum"),
        ("\n\n", "r.csv:2: the file is empty"),
        ("\udcff\udcfev\0a\0", "r.csv:1: the file is not text in UTF-8; allowed: a CSV that was saved as UTF-8"),
        ("variant,n\na,1\n", "r.csv:1: missing columns: sum; found variant, n; allowed: variant, user, n, sum"),
        ("variant,n,sum,sum_square\n", "r.csv:1: unknown column; found sum_square; allowed: variant, user"),
        ("variant,n,sum,n\n", "r.csv:1: the same column twice; found n"),
        (
            "variant,n,sum\na,1,0\nb,2\n",
            "r.csv:3: the row is not as long as the first line; found 2 cells; allowed: 3",
        ),
        ("variant,n,sum\na,1.5,0\n", "r.csv:2: n: not a count; found 1.5; allowed: a whole number from 0 to 10^15"),
        ("variant,n,sum\na,,0\n", "r.csv:2: n: not a count; found nothing"),
        ("variant,n,sum\na,-1,0\n", "r.csv:2: n: not a count; found -1"),
        ("variant,n,sum\na,1e3,0\n", "r.csv:2: n: not a count; found 1e3"),
        (f"variant,n,sum\na,{'9' * 5000},0\n", "r.csv:2: n: not a count; found 99999"),
        (
            "variant,n,sum\na,5,6\n",
            "r.csv:2: sum: more events than requests; found 6; allowed: at most n, 5; for a mean",
        ),
        ("variant,n,sum,sum_squares\na,5,nan,6\n", "r.csv:2: sum: not a number; found nan"),
        ("variant,n,sum,sum_squares\na,5,1e999,6\n", "r.csv:2: sum: not a number; found 1e999"),
        ("variant,n,sum,sum_squares\na,2,10,49\n", "r.csv:2: sum_squares: impossible with this n and sum; found 49"),
        ("variant,n,sum,sum_squares\na,0,1,1\n", "r.csv:2: sum_squares: impossible with this n and sum"),
        ("variant,n,sum\n,5,1\n", "r.csv:2: variant: not a name; found nothing; allowed: 1 to 63 printable"),
        ("variant,n,sum\na\x1b[2J,5,1\n", "r.csv:2: variant: not a name; found a\\x1b[2J"),
        ("variant,n,sum,segment\na,5,1,\n", "r.csv:2: segment: not a name; found nothing"),
        (
            "variant,n,sum\na,5,1\na,6,1\n",
            "r.csv:3: variant: the same variant twice; found a; allowed: one row for each",
        ),
        (
            "variant,n,sum\na,5,1\n",
            "r.csv: variant: there is nothing to compare; found a; allowed: at least 2 variants",
        ),
        ("variant,n,sum\n", "r.csv: variant: there is nothing to compare; found none"),
        ("variant,n,sum,time\na,5,1,soon\n", "r.csv:2: time: not a time; found soon; allowed: a number, or a date"),
        ("variant,n,sum,time\na,5,1,1\na,6,1,2026-01-01\n", "r.csv:3: time: dates and numbers in one column"),
        (
            "variant,n,sum,time\na,5,1,1\na,4,1,2\n",
            "r.csv: n: variant a is left out: rows are cumulative, but n is 5 on line 2 and 4 on line 3; allowed: n",
        ),
        (
            "variant,n,sum,time\na,5,1,2\na,6,1,1\n",
            "r.csv: n: variant a is left out: rows are cumulative, but n is 5 on line 2 and 6 on line 3",
        ),
        ("variant,user,n,sum,time\n", "r.csv:1: time: a file of users has no such column; allowed: variant, user, n"),
        ("variant,user,n,sum\na,,1,0\n", "r.csv:2: user: not a user; found 0 characters"),
        ("variant,user,n,sum\na,u,0,1\n", "r.csv:2: sum: a sum of no requests; found 1"),
        ('variant,n,sum\n"a,1,0\n', "r.csv:2: not a valid CSV"),
        (f"variant,n,sum\na,1,{' ' * LONGEST_LINE}\n", "r.csv:2: the line is too long; allowed: at most"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_column_what_was_found_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(text)
    assert str(caught.value).startswith(message), str(caught.value)
    assert len(str(caught.value)) < 400


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"r\.csv:22: variant: too many variants; found v20; allowed: at most 20"):
        read("variant,n,sum\n" + "".join(f"v{number},1,0\n" for number in range(30)))
    monkeypatch.setattr(table_cells, "MOST_CELLS", 3)
    with pytest.raises(DataError, match="too many groups"):
        read("variant,n,sum,segment\n" + "".join(f"a,1,0,s{number}\n" for number in range(4)))
    monkeypatch.setattr(table_reader, "MOST_AGGREGATES", 3)
    monkeypatch.setattr(table_users, "MOST_USER_ROWS", 3)
    with pytest.raises(DataError, match=r"r\.csv:5: too many rows; allowed: at most 3"):
        read("variant,n,sum,time\n" + "".join(f"a,1,0,{number}\n" for number in range(4)))
    with pytest.raises(DataError, match=r"r\.csv:5: too many rows; allowed: at most 3"):
        read("variant,user,n,sum\n" + "a,u,1,0\n" * 4)
