"""A CSV with a row for each unit: columns, cells, caps, covariates, and what is said of damage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from abmesh.analysis import rows as rows_module
from abmesh.analysis.mapping import Asked
from abmesh.analysis.records import AnalysisReport, Finding
from abmesh.analysis.results import read_results
from abmesh.analysis.rows_treated import Cap
from abmesh.analysis.table import Table, Totals
from abmesh.analysis.table_comparisons import compared
from abmesh.analysis.table_question import TableQuestion, control_of, tuned_for
from abmesh.analysis.table_report import report_of
from abmesh.experiment.errors import DataError, UnknownName
from abmesh.inference.fixed import anytime_sample_size
from abmesh.inference.moments import Moments
from abmesh.inference.numbers import Side


def read(
    text: str, *metrics: str, control: str | None = None, cap: Cap | None = None, **asked: object
) -> tuple[Table, ...]:
    wanted = Asked(metrics=metrics, **asked)  # type: ignore[arg-type] # a test's own mixture
    return read_results(text.splitlines(keepends=True), "r.csv", wanted, control, cap)


def report(tables: tuple[Table, ...], **question: object) -> AnalysisReport:
    return report_of(tables, TableQuestion(**question))  # type: ignore[arg-type] # a test's own mixture


def finding(found: AnalysisReport, valid: str = "at any look", metric: int = 0) -> Finding:
    return next(item for item in found.metrics[metric].comparisons[0].findings if item.valid == valid)


PLAIN = "id,arm,paid,kept\n1,control,5,true\n2,new,7,no\n3,new,0,YES\n4,control,1,False\n"


class TestColumns:
    def test_a_share_is_what_holds_true_and_false_and_a_mean_anything_else(self) -> None:
        paid, kept = read(PLAIN, "paid", "kept", unit="id")
        assert (paid.kind, paid.share, paid.metric, paid.per) == ("mean", False, "paid", "units")
        assert (kept.kind, kept.share) == ("rate", True)
        assert {name: (part.n, part.y) for name, part in kept.part("").items()} == {"control": (2, 1), "new": (2, 1)}
        assert {name: (part.y, part.yy) for name, part in paid.part("").items()} == {"control": (6, 26), "new": (7, 49)}
        assert kept.users == {("", "control"): 2, ("", "new"): 2}
        assert paid.notes == ()

    @pytest.mark.parametrize("words", ["true,false", "TRUE,FALSE", "yes,no", "1,0", "1.0,0.0", "1,no"])
    def test_shares_in_any_spelling(self, words: str) -> None:
        one, none = words.split(",")
        (table,) = read(f"variant,kept\na,{one}\na,{none}\nb, {none} \nb,{none}\n", "kept", control="a")
        assert table.share
        assert (table.part("")["a"].y, table.part("")["b"].y) == (1, 0)

    def test_rows_without_a_unit_are_units_and_that_is_said(self) -> None:
        (table,) = read("group,paid\na,5\nb,7\nb,2\n", "paid", control="a")
        assert table.notes == ("each row counts as one independent unit",)
        assert (table.per, table.counted) == ("rows", "rows")

    def test_names_are_matched_exactly_and_then_in_any_case(self) -> None:
        text = "Paid,paid,Arm\n1,2,control\n3,4,b\n"
        assert read(text, "paid")[0].part("")["b"].y == 4
        assert read(text, "Paid")[0].part("")["b"].y == 3
        with pytest.raises(DataError, match="--metric 'PAID' is a column twice; found Paid, paid, Arm"):
            read(text, "PAID")

    def test_an_index_without_a_name_and_columns_that_nobody_asked_for_do_no_harm(self) -> None:
        (table,) = read(',x,arm,paid,x\n0,"a ""b""\n c",control,1,\n1,,new,2,\n', "paid")
        assert table.part("")["new"].y == 2

    def test_segments_and_stages_are_columns_as_well(self) -> None:
        text = "arm,paid,land,week\n" + "control,1,de,1\nnew,2,,1\n" * 3 + "control,1,de,2\n"
        (table,) = read(text, "paid", segment="land", stage="week")
        assert (table.stages, table.segments) == (("1", "2"), ("de", "(none)"))

    def test_a_variant_may_be_named_by_several_columns_and_be_long(self) -> None:
        long = "x" * 120
        (table,) = read(f"a,b,paid\n{long},1,2\n{long},2,3\n", "paid", variants=("a", "b"), control=f"{long} / 1")
        assert table.variants == (f"{long} / 1", f"{long} / 2")

    def test_requests_of_units_are_a_ratio(self) -> None:
        text = "arm,who,views,clicks\ncontrol,u,5,2\nnew,v,4,1\ncontrol,u,5,1\n"
        (table,) = read(text, "clicks", unit="who", n="views")
        assert (table.kind, table.share, table.per) == ("ratio", True, "views")
        assert (table.part("")["control"].n, table.part("")["control"].y) == (10, 3)

    def test_requests_without_units_are_a_rate(self) -> None:
        (table,) = read("arm,views,clicks\ncontrol,50,2\nnew,40,1\nnew,10,1\n", "clicks", n="views")
        assert (table.kind, table.per) == ("rate", "views")
        assert (table.part("")["new"].n, table.part("")["new"].y) == (50, 2)

    def test_a_file_of_sums_needs_no_columns_to_be_named(self) -> None:
        (table,) = read("variant,n,sum\ncontrol,50,2\nb,40,1\n", "conversion")
        assert (table.kind, table.metric) == ("rate", "")
        (table,) = read("variant,n,sum,clicks\ncontrol,50,2,9\nb,40,1,8\n", "clicks", n="n")
        assert table.part("")["b"].y == 8


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("a,b\n", {}, "r.csv:1: no column is known to be the variant; found a, b; allowed: --variant COLUMN"),
        ("arm,group,x\n", {}, "r.csv:1: several columns may be the variant; found arm, group, x; allowed: --variant"),
        (
            "arm,x\n",
            {"unit": "who"},
            "r.csv:1: --unit 'who' is no column; found arm, x; allowed: a column of this file",
        ),
        ("arm,x\n", {"variants": ("x",)}, "r.csv:1: x: the column is named for two purposes; found x"),
        ("arm,x\ncontrol,1\n", {}, "r.csv: variant: there is nothing to compare; found control"),
        ("arm,x\na,1\nb,2\n", {}, "r.csv: variant: no variant is named control; found a, b; allowed: --control NAME"),
        ("arm,x\nControl,1\ncontrol,2\n", {}, "r.csv: variant: several variants are named control; found Control, con"),
        (
            "arm,x\ncontrol,1\nb,inf\n",
            {},
            "r.csv:3: x: not a number; found inf; allowed: a number with a decimal point",
        ),
        ("arm,x\ncontrol,1\nb,1e400\n", {}, "r.csv:3: x: not a number; found 1e400"),
        ("arm,x\ncontrol,1\nb,EUR 5\n", {}, "r.csv:3: x: not a number; found EUR 5"),
        (
            "arm;x\ncontrol;1\nb;1,5\n",
            {},
            "r.csv:3: x: not a number; found 1,5; allowed: a number with a decimal point",
        ),
        ("arm,x\ncontrol,true\nb,3\n", {}, "r.csv: x: words and numbers in one column; allowed: true and false"),
        ("arm,x\ncontrol,1\nb\n", {}, "r.csv:3: the row is not as long as the first line; found 1 cells; allowed: 2"),
        ("arm,x\ncontrol,1\nb\x1b,1\n", {}, "r.csv:3: arm: not a name; found b\\x1b"),
        ("arm,x,n\ncontrol,1,5\nb,7,6\n", {"n": "n"}, "r.csv: x: not a count of events; allowed: whole numbers of at"),
        ("arm,x,n\ncontrol,1,5\nb,.5,6\n", {"n": "n"}, "r.csv: x: not a count of events"),
        ("arm,x,n\ncontrol,1,5\nb,1,-6\n", {"n": "n"}, "r.csv:3: n: not a count; found -6"),
        (f"arm,x,u\ncontrol,1,{'u' * 2000}\n", {"unit": "u"}, "r.csv:2: u: not a unit; found 2000 characters"),
        ('arm,x\n"control,1\nb,2\n', {}, "r.csv:3: not a valid CSV: unexpected end of data"),
    ],
)
def test_a_bad_file_is_refused_with_its_place_what_was_found_and_what_is_allowed(
    text: str, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(text, "x", **asked)  # type: ignore[arg-type] # a test's own mixture
    assert str(caught.value).startswith(message), str(caught.value)


def test_a_metric_must_be_named_and_is_never_guessed() -> None:
    with pytest.raises(
        DataError, match=r"r\.csv:1: no column is named as a metric; found paid, kept; allowed: --metric"
    ):
        read("user,arm,paid,kept\n")


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="arm: too many variants; found v20; allowed: at most 20; is it the variant"):
        read("arm,x\n" + "".join(f"v{number},1\n" for number in range(30)), "x")
    monkeypatch.setattr(rows_module, "MOST_ROWS", 3)
    with pytest.raises(DataError, match=r"r\.csv:5: too many rows"):
        read("arm,x\n" + "control,1\n" * 4, "x")


class TestDamage:
    def test_missing_values_are_left_out_and_counted_by_variant(self) -> None:
        cells = ["1", "", "NaN", "n/a", "NULL", "-", "2", " none "]
        text = "arm,x\n" + "".join(f"control,{cell}\n" for cell in cells) + "b,3\nb,4\n"
        tables = read(text, "x")
        assert tables[0].missing == {"control": 6, "b": 0}
        assert tables[0].part("")["control"].n == 2
        assert "x: 6 rows have no value and are left out (control 75%, b 0%)" in report(tables).warnings

    def test_values_that_are_not_missing_alike_are_said_to_be_no_fair_comparison(self) -> None:
        rows = ["control,1\n"] * 990 + ["control,\n"] * 10 + ["b,1\n"] * 900 + ["b,\n"] * 100
        (warning,) = report(read("arm,x\n" + "".join(rows), "x")).warnings
        assert warning.endswith("they are not missing alike, so what is left is no fair comparison: find out why")
        rows = ["control,1\n"] * 950 + ["control,\n"] * 50 + ["b,1\n"] * 948 + ["b,\n"] * 52
        assert "alike" not in report(read("arm,x\n" + "".join(rows), "x")).warnings[0]

    def test_rows_without_variant_or_unit_are_left_out_and_counted(self) -> None:
        text = "arm,user,x\ncontrol,1,1\n,2,1\nb,,1\nb,4,1\nNA,5,1\n"
        (table,) = read(text, "x")
        assert table.warnings == (
            "2 rows have no arm and are left out; the first is on line 3",
            "1 row has no user and is left out; the first is on line 4",
        )

    def test_units_in_two_variants_are_the_first_thing_that_is_said(self) -> None:
        rows = "".join(f"u{number},{'control' if number % 2 else 'b'},{number}\n" for number in range(40))
        found = report(read("user,arm,x\n" + rows + "u1,b,5\nu2,control,5\n", "x"))
        assert found.warnings[0].startswith(
            "2 of 40 values of user are in more than one variant, which an assignment that works"
        )
        assert "trust no comparison until you have found the cause" in found.warnings[0]

    def test_names_that_may_be_misspelt_are_pointed_out(self) -> None:
        rows = "control,1\n" * 2000 + "new,1\n" * 2000 + "nwe,1\n" + "New,1\n" * 1000
        assert report(read("arm,x\n" + rows, "x")).warnings == [
            "variant nwe has only 1 of 5,001 rows: is the name misspelt?",
            "variants new and New differ only in their case: are they the same?",
        ]
        assert not report(read("arm,x\n" + "control,1\n" * 900 + "b,1\n", "x")).warnings

    def test_units_with_several_rows_are_compared_in_groups(self) -> None:
        rows = "".join(f"u{number % 20},{'control' if number % 2 else 'b'},{number}\n" for number in range(60))
        tables = read("user,arm,x\n" + rows, "x")
        assert tables[0].kind == "ratio"
        assert tables[0].users == {("", "control"): 10, ("", "b"): 10}
        assert "20 of 20 values of user have more than one row" in report(tables).warnings[0]

    def test_quoted_lines_a_byte_order_mark_tabs_and_windows_lines(self) -> None:
        text = '\ufeffarm\tx\tnote\r\ncontrol\t1\t"two\r\nlines\t"\r\nb\t2\t\r\n'
        (table,) = read(text, "x")
        assert (table.part("")["control"].y, table.part("")["b"].y) == (1, 2)


class TestCaps:
    TEXT = "arm,x\n" + "".join(f"control,{value}\n" for value in range(1, 101)) + "b,7\nb,1000\nb,99.5\n"

    def test_values_above_the_controls_quantile_count_as_it(self) -> None:
        (table,) = read(self.TEXT, "x", cap=Cap(0.9, quantile=True))
        level = float(np.quantile(np.arange(1, 101), 0.9))
        assert table.part("")["b"].y == pytest.approx(7 + 2 * level)
        assert table.part("")["control"].y == pytest.approx(np.minimum(np.arange(1, 101), level).sum())
        assert "values above 90.1, control's 90% quantile, count as 90.1 (control 10, b 2)" in table.notes[1]
        assert "give the cap as a number" in table.notes[1]

    def test_a_number_is_a_cap_for_all_variants_alike(self) -> None:
        (table,) = read(self.TEXT, "x", cap=Cap(50, quantile=False))
        assert table.part("")["b"].y == 7 + 50 + 50
        assert "values above 50, as you asked, count as 50 (control 50, b 2)" in table.notes[1]
        assert "quantile" not in table.notes[1]

    def test_shares_have_no_cap_and_a_cap_must_leave_something(self) -> None:
        (table,) = read("arm,x\ncontrol,1\nb,0\n", "x", cap=Cap(0.5, quantile=False))
        assert table.share
        with pytest.raises(
            DataError, match="x: the cap leaves no value different from another; found 0; allowed: a cap"
        ):
            read("arm,x\n" + "control,0\n" * 500 + "control,9\nb,0\nb,5\n", "x", cap=Cap(0.99, quantile=True))
        with pytest.raises(DataError, match="a row's sum has no cap"):
            read("arm,u,x,n\ncontrol,1,9,5\nb,2,8,6\n", "x", unit="u", n="n", cap=Cap(3, quantile=False))


def paired(seed: int, *, effect: float = 0.0, size: int = 400) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    new = random.random(size) < 0.5
    x = random.lognormal(3, 1, size)
    y = 0.8 * x + random.normal(0, 5, size) + effect * new
    rows = [
        f"{'b' if b else 'control'},{value!r},{before!r}\n"
        for b, value, before in zip(new, y.tolist(), x.tolist(), strict=True)
    ]
    return "arm,y,before\n" + "".join(rows), new, y, x


class TestCovariates:
    def test_the_adjusted_difference_and_its_error_are_those_of_cuped(self) -> None:
        text, new, y, x = paired(5, effect=1.0)

        control = ~new
        centred = [(y[arm] - y[arm].mean(), x[arm] - x[arm].mean()) for arm in (control, new)]
        slope = sum((b * a).sum() for a, b in centred) / sum((b * b).sum() for _, b in centred)
        d = y[new].mean() - y[control].mean() - slope * (x[new].mean() - x[control].mean())
        v = sum(((a - slope * b) ** 2).sum() / (a.size - 1) / a.size for a, b in centred)
        (table,) = read(text, "y", covariate="before")
        old, b = (table.part("")[name] for name in ("control", "b"))
        assert b.y / b.n - old.y / old.n == pytest.approx(d)
        errors = [Moments(part.n, part.y, part.yy or 0.0).standard_error2 for part in (old, b)]
        assert sum(errors) == pytest.approx(v)

    def test_intervals_narrow_at_any_look_and_for_one(self) -> None:
        text, *_ = paired(6)
        plain, adjusted = report(read(text, "y")), report(read(text, "y", covariate="before"))
        for valid in ("at any look", "for one look only"):
            wide, narrow = (finding(each, valid).difference.interval for each in (plain, adjusted))
            assert narrow.upper - narrow.lower < 0.6 * (wide.upper - wide.lower)
        assert any("y is adjusted by the covariate, which removes 9" in note for note in adjusted.notes)

    def test_a_covariate_that_differs_between_variants_is_doubted(self) -> None:
        """It was measured after the experiment began, or the users were not split at random."""
        random = np.random.default_rng(4)
        rows = [
            f"{'b' if n % 2 else 'control'},1,{value!r},{value + 0.3 * (n % 2)!r}\n"
            for n, value in enumerate(random.normal(size=2000).tolist())
        ]
        text = "arm,y,before,during\n" + "".join(rows)
        assert not report(read(text, "y", covariate="before")).warnings
        (warning,) = report(read(text, "y", covariate="during")).warnings
        assert warning.startswith("the covariate differs between variants, as no value from before the experiment")

    def test_an_adjusted_share_is_still_shown_in_percent(self) -> None:
        rows = "".join(f"{'b' if n % 2 else 'control'},{n % 3 == 0},{n % 3 + n % 7}\n" for n in range(400))
        found = report(read("arm,kept,before\n" + rows, "kept", covariate="before"))
        assert (found.metrics[0].metric.kind, found.metrics[0].metric.unit) == ("mean", "share")

    def test_a_missing_covariate_adjusts_nothing(self) -> None:
        (table,) = read("arm,y,before\ncontrol,1,1\ncontrol,2,2\nb,3,\nb,4,3\n", "y", covariate="before")
        assert any("without a covariate and therefore not adjusted: 1" in note for note in table.notes)
        with pytest.raises(DataError, match="the covariate has no values"):
            read("arm,y,before\ncontrol,1,\nb,3,\n", "y", covariate="before")

    @given(st.floats(-1e6, 1e6), st.floats(0.01, 100))
    def test_where_the_covariate_begins_and_its_unit_change_nothing(self, shift: float, scale: float) -> None:
        text, new, y, x = paired(7, size=60)
        moved = [
            f"{'b' if b else 'control'},{value!r},{before!r}\n"
            for b, value, before in zip(new, y.tolist(), (x * scale + shift).tolist(), strict=True)
        ]
        one = finding(report(read(text, "y", covariate="before")))
        other = finding(report(read("arm,y,before\n" + "".join(moved), "y", covariate="before")))
        assert other.difference.value == pytest.approx(one.difference.value, rel=1e-6, abs=1e-6)


class TestTheControl:
    def test_it_is_the_variant_of_that_name_in_any_case(self) -> None:
        assert control_of(("new", "CONTROL"), None, "r.csv") == "CONTROL"
        assert control_of(("new", "control"), "new", "r.csv") == "new"
        with pytest.raises(UnknownName, match="no variant named 'third'; there is: new, old"):
            control_of(("new", "old"), "third", "r.csv")


class TestTuning:
    def means(self, size: int) -> tuple[Table, ...]:
        text = f"variant,n,sum,sum_squares\ncontrol,{size},{size},{3 * size}\nb,{size},{size},{3 * size}\n"
        return read(text)

    def test_it_follows_the_files_size_in_powers_of_ten(self) -> None:
        for size, wanted in ((20, 100), (200, 1000), (2000, 10_000), (14_000, 10_000), (17_000, 100_000)):
            assert tuned_for(self.means(size)[0], None) == wanted
        assert tuned_for(self.means(20)[0], 777) == 777

    def test_the_default_costs_at_most_5_percent_in_width(self) -> None:
        for size in np.geomspace(200, 2e6, 30):
            (table,) = self.means(round(size))
            widths = [np.ptp(list(_limits(report((table,), tuned_for=tuned)))) for tuned in (None, 2.0 * round(size))]
            assert widths[0] <= 1.051 * widths[1]

    @pytest.mark.parametrize(("tuned", "warned"), [(100, True), (20_000, False), (60_000, False), (10_000_000, True)])
    def test_a_size_far_from_the_files_is_a_warning(self, tuned: int, warned: bool) -> None:
        warnings = report(self.means(10_000), tuned_for=tuned).warnings
        assert any("--tuned-for" in warning and "wider than they need be" in warning for warning in warnings) == warned

    def test_shares_are_tuned_as_well(self) -> None:
        tables = read("variant,n,sum\ncontrol,20000,9000\nb,20000,9400\n")
        near, far = report(tables, tuned_for=40_000), report(tables, tuned_for=4 * 10**9)
        assert near.warnings == []
        assert "--tuned-for 4,000,000,000 is far from the 40,000 requests of two variants" in far.warnings[0]
        widths = [upper - lower for lower, upper in map(_limits, (near, far))]
        assert widths[1] > 1.3 * widths[0]


BOTH = (Side.GREATER, Side.LESS)


def _limits(found: AnalysisReport) -> tuple[float, float]:
    interval = finding(found).difference.interval
    return interval.lower, interval.upper


def test_welchs_test_of_rows_is_scipys() -> None:
    text, new, y, _ = paired(8, effect=2.0)
    found = finding(report(read(text, "y")), "for one look only")
    assert found.p == pytest.approx(ttest_ind(y[new], y[~new], equal_var=False).pvalue, rel=1e-9)


@pytest.mark.simulation
@pytest.mark.parametrize("asked", ["cap", "covariate", "plain"])
def test_a_file_that_grows_and_is_read_all_the_time_raises_few_false_alarms(asked: str) -> None:
    """Nothing differs; values are heavy-tailed, and the file is read 25 times while it grows fiftyfold."""
    runs, alarms = 200, 0
    for seed in range(runs):
        random = np.random.default_rng(seed)
        new, x = random.random(10_000) < 0.5, random.lognormal(0, 1.2, 10_000)
        y = 0.5 * x + random.lognormal(0, 1.2, 10_000)
        for size in np.geomspace(200, 10_000, 25).astype(int):
            a, b = y[:size][~new[:size]], y[:size][new[:size]]
            if asked == "cap":
                a, b = np.minimum(a, 6.0), np.minimum(b, 6.0)
            if asked == "covariate":
                slope = np.polyfit(x[:size], y[:size], 1)[0]
                adjusted = y[:size] - slope * (x[:size] - x[:size].mean())
                a, b = adjusted[~new[:size]], adjusted[new[:size]]
            arms = [Totals(v.size, float(v.sum()), float((v * v).sum())) for v in (a, b)]
            cells = {("", "", name): arm for name, arm in zip(("control", "b"), arms, strict=True)}
            table = Table("r.csv", "mean", False, ("control", "b"), ("",), ("",), cells)
            found = compared(table, [(arms[0], arms[1])], 0.05, tuned_for(table, None))
            if max(float(found.increase(side, 0.0, relative=False)[0]) for side in BOTH) >= math.log(2 / 0.05):
                alarms += 1
                break
    assert alarms <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)


@pytest.mark.simulation
@pytest.mark.parametrize(("rate", "higher"), [(0.02, 0.024), (0.5, 0.52), (0.8, 0.82)])
def test_shares_are_found_with_the_power_that_was_planned_and_rarely_by_chance(rate: float, higher: float) -> None:
    """At the anytime size of power 80%, and while a file without a difference grows a hundredfold."""
    random, runs = np.random.default_rng(9), 300

    def significant(n: int, y_a: int, y_b: int, tuned: float | None) -> bool:
        arms = Totals(n, y_a), Totals(n, y_b)
        cells = {("", "", name): arm for name, arm in zip(("control", "b"), arms, strict=True)}
        table = Table("r.csv", "rate", True, ("control", "b"), ("",), ("",), cells)
        found = compared(table, [arms], 0.05, tuned_for(table, tuned))
        return max(float(found.increase(side, 0.0, relative=False)[0]) for side in BOTH) >= math.log(2 / 0.05)

    size = math.ceil(
        anytime_sample_size(rate * (1 - rate), higher * (1 - higher), higher - rate, alpha=0.05, power=0.8)
    )
    power = np.mean(
        [significant(size, random.binomial(size, rate), random.binomial(size, higher), 2 * size) for _ in range(runs)]
    )
    assert power >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / runs)
    sizes = np.geomspace(200, 20_000, 25).astype(int)
    steps, alarms = np.diff(sizes, prepend=0), 0
    for _ in range(runs):
        y_a, y_b = (np.cumsum(random.binomial(steps, rate)) for _ in "ab")
        alarms += any(significant(int(n), int(a), int(b), None) for n, a, b in zip(sizes, y_a, y_b, strict=True))
    assert alarms <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)
