"""A table's report: numbers that others published, oracles, and what must not depend on how the data are written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportions_ztest

from abmesh.analysis.records import AnalysisReport, ComparedVariant, Finding
from abmesh.analysis.render import as_json, as_text
from abmesh.analysis.table_question import TableQuestion
from abmesh.analysis.table_reader import read_table
from abmesh.analysis.table_report import report_of
from abmesh.experiment.errors import UnknownName
from abmesh.inference.numbers import Interval


def report(text: str, **question: object) -> AnalysisReport:
    table = read_table(text.splitlines(keepends=True), "r.csv")
    given = {"metric": "m", "control": table.variants[0], **question}
    asked = TableQuestion(**given)  # type: ignore[arg-type] # a test's own mixture
    return report_of([table], asked)


def comparison(found: AnalysisReport, variant: str = "b") -> ComparedVariant:
    return next(item for item in found.metrics[0].comparisons if item.variant == variant)


def finding(found: AnalysisReport, valid: str = "at any look", variant: str = "b") -> Finding:
    return next(item for item in comparison(found, variant).findings if item.valid == valid)


SPEND = "variant,n,sum,sum_squares\na,3000,1396.87,52377.9767\nb,3461,2422.7,134698.29\n"


def test_the_lift_and_the_difference_of_a_mean_both_include_0_where_p_does_not_reject() -> None:
    first = finding(report(SPEND, tuned_for=1000))
    assert first.lift is not None
    assert first.lift.value == pytest.approx(0.50336, abs=5e-6)  # as GrowthBook has it
    assert first.p > 0.05
    for interval in (first.lift.interval, first.difference.interval):
        assert interval.lower < 0 < interval.upper


HILLSTROM = "variant,n,sum\nmens,21307,3894\nwomens,21387,3238\nnone,21306,2262\n"


def test_the_split_of_hillstroms_mails() -> None:
    (split,) = report(HILLSTROM, weights={"mens": 1, "womens": 1, "none": 1}).splits
    assert split.plain_p == pytest.approx(0.9037, abs=5e-5)
    assert not split.alarm


def test_a_split_that_is_off_is_an_alarm_and_a_warning() -> None:
    found = report(HILLSTROM, weights={"mens": 5000, "womens": 5000})
    assert not found.splits[0].alarm
    found = report(HILLSTROM, weights={"mens": 5100, "womens": 4900})
    assert found.splits[0].alarm
    assert "sample-ratio mismatch" in found.warnings[0]
    assert not report(HILLSTROM).splits


def test_a_split_of_single_units_is_looked_at_closely() -> None:
    """51 to 49 of 40,000 is four standard deviations off."""
    assert report("variant,n,sum\na,20400,1\nb,19600,1\n", weights={"a": 5000, "b": 5000}).splits[0].alarm
    assert not report("variant,n,sum\na,20200,1\nb,19800,1\n", weights={"a": 5000, "b": 5000}).splits[0].alarm


KOHAVI = "variant,n,sum,stage\na,990000,20000,fri\nb,10000,230,fri\na,500000,5000,sat\nb,500000,6000,sat\n"


def test_kohavis_ramp_is_not_turned_around() -> None:
    found = report(KOHAVI)
    assert comparison(found).verdict == "higher"
    friday, saturday = 990_000 * 10_000 / 1_000_000, 500_000 * 500_000 / 1_000_000
    wanted = (friday * (0.023 - 2 / 99) + saturday * (0.012 - 0.01)) / (friday + saturday)
    assert finding(found).difference.value == pytest.approx(wanted, rel=1e-12)
    pooled = finding(found, "for one look only")
    assert pooled.result == "lower"
    assert "right only if nothing drifted" in pooled.method
    assert any(
        "Simpson" in warning and "-0.4563 pp" in warning and "+0.203 pp" in warning for warning in found.warnings
    )


def test_segments_that_contradict_the_whole_are_pointed_out() -> None:
    found = report(KOHAVI.replace("stage", "segment"))
    assert comparison(found).verdict == "lower"
    assert {item.verdict for item in found.metrics[0].segments} == {"higher", "undecided"}
    assert any("Simpson" in warning and "segments below" in warning for warning in found.warnings)


def test_segments_are_corrected_together_and_only_for_their_number() -> None:
    rows = [
        f"{name},10000,{events},s{number}\n"
        for number, last in enumerate((260, 200, 200, 200))
        for name, events in (("a", 200), ("b", last))
    ]
    found = report("variant,n,sum,segment\n" + "".join(rows))
    first = found.metrics[0].segments[0].findings[-1]
    assert first.adjusted == pytest.approx(4 * first.p)
    assert all(item.findings[-1].adjusted >= item.findings[-1].p for item in found.metrics[0].segments)


def test_several_variants_are_corrected_by_holms_method() -> None:
    found = report(HILLSTROM.replace("3238", "3700"), control="mens")
    plain = finding(found, "for one look only", "womens")
    assert plain.adjusted == pytest.approx(plain.p)
    assert finding(found, "for one look only", "none").adjusted == pytest.approx(
        2 * finding(found, "for one look only", "none").p
    )
    assert found.control == found.metrics[0].variants[0].variant == "mens"


def test_the_legend_says_that_intervals_are_not_corrected() -> None:
    """Two variants that would each be significant at alpha alone, but not beside the other."""
    three = "variant,n,sum\na,2000,1000\nb,2000,1105\nc,2000,1105\n"
    found = report(three, control="a")
    first = finding(found)
    assert first.p <= 0.05 < first.adjusted
    assert first.result == "undecided"
    assert first.difference.interval.lower > 0
    warned = "intervals are not, so one that excludes 0 beside 'undecided' is not a finding"
    assert f"Holm's method, separately for each analysis; {warned}" in as_text(found, "text")
    segmented = as_text(report("variant,n,sum,segment\na,100,5,x\nb,100,6,x\n"), "markdown")
    assert f"p of segments: corrected by Benjamini and Hochberg's method; {warned}" in segmented
    assert warned not in as_text(report("variant,n,sum\na,100,5\nb,100,6\n"), "text")


@settings(max_examples=30)
@given(st.integers(50, 10**6), st.floats(0.01, 0.9), st.integers(50, 10**6), st.floats(0.01, 0.9))
def test_the_z_test_is_that_of_statsmodels(n_a: int, p_a: float, n_b: int, p_b: float) -> None:
    s_a, s_b = max(1, round(n_a * p_a)), max(1, round(n_b * p_b))
    found = finding(report(f"variant,n,sum\na,{n_a},{s_a}\nb,{n_b},{s_b}\n"), "for one look only")
    _, p = proportions_ztest([s_b, s_a], [n_b, n_a])
    assert found.p == pytest.approx(p, rel=1e-9, abs=1e-300)


def test_welchs_test_is_that_of_tea_tasting() -> None:
    found = finding(report(SPEND), "for one look only")
    a, b = (
        tt.aggr.Aggregates(count_=n, mean_={"x": y / n}, var_={"x": (yy - y * y / n) / (n - 1)})
        for n, y, yy in ((3000, 1396.87, 52377.9767), (3461, 2422.7, 134698.29))
    )
    theirs = tt.Mean("x", use_t=True, equal_var=False).analyze_aggregates(control=a, treatment=b)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.difference.interval.lower == pytest.approx(theirs.effect_size_ci_lower, rel=1e-9)


USERS = 400


def users(seed: int, *, factor: float = 1.0, heads: str = "ab") -> str:
    """Users of 1 to 50 requests whose own rates differ."""
    random = np.random.default_rng(seed)
    rows = ["variant,user,n,sum\n"]
    for number in range(2 * USERS):
        n = int(random.integers(1, 51))
        rate = min(1.0, float(random.beta(0.2, 3.8)) * (factor if number % 2 else 1.0))
        rows.append(f"{heads[number % 2]},u{number},{n},{random.binomial(n, rate)}\n")
    return "".join(rows)


def test_users_who_repeat_are_not_taken_for_independent_requests() -> None:
    """Nothing differs: by request the z-test cries wolf most of the time, by user neither analysis does."""
    wolf = {"request": 0, "one": 0, "any": 0}
    for seed in range(40):
        found = report(users(seed))
        rows = found.metrics[0].variants
        text = "variant,n,sum\n" + "".join(f"{row.variant},{row.n:.0f},{row.total:.0f}\n" for row in rows)
        wolf["request"] += finding(report(text), "for one look only").significant
        wolf["one"] += finding(found, "for one look only").significant
        wolf["any"] += finding(found).significant
        assert float(finding(found).note.split()[-1]) > 2
    assert wolf["request"] >= 12
    assert wolf["one"] <= 2 + 3 * math.sqrt(40 * 0.05 * 0.95)
    assert wolf["any"] <= 2


def test_a_difference_between_users_is_found() -> None:
    found = report(users(1, factor=4.0))
    assert [item.result for item in comparison(found).findings] == ["higher", "higher"]


def spend(seed: int, stage: str, *, users: int, factor: float = 1.0) -> str:
    """Users of 1 to 20 requests, each of which costs what is usual for its user."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(2 * users):
        n = int(random.integers(1, 21))
        value = n * float(random.gamma(4, 1.0)) * (factor if number % 2 else 1.0)
        rows.append(f"{'ab'[number % 2]},{stage}{number},{n},{value:.6g},{stage}\n")
    return "".join(rows)


def test_means_of_users_are_compared_stage_by_stage_whatever_groups_their_users_fall_in() -> None:
    header = "variant,user,n,sum,stage\n"
    found = finding(report(header + spend(1, "x", users=300) + spend(2, "y", users=40), tuned_for=5000))
    assert found.difference.value is not None
    assert found.difference.interval.lower < 0 < found.difference.interval.upper
    higher = finding(report(header + spend(1, "x", users=300, factor=2) + spend(2, "y", users=40, factor=2)))
    assert higher.result == "higher"
    assert higher.lift is not None
    assert higher.lift.interval.lower < 1.0 < higher.lift.interval.upper


@pytest.mark.parametrize(("users", "known"), [(9, False), (60, True)])
def test_a_mean_of_fewer_than_ten_groups_of_users_has_no_interval(users: int, known: bool) -> None:
    header = "variant,user,n,sum,stage\n"
    interval = finding(report(header + spend(3, "x", users=users))).difference.interval
    assert math.isfinite(interval.lower) == math.isfinite(interval.upper) == known


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.0, 3.0))
def test_relabelling_variants_only_turns_signs(seed: int, factor: float) -> None:
    one, other = report(users(seed, factor=factor)), report(users(seed, factor=factor), control="b")
    for valid in ("at any look", "for one look only"):
        there, back = finding(one, valid), finding(other, valid, "a")
        assert there.p == pytest.approx(back.p, rel=1e-9)
        assert there.difference.value == pytest.approx(-(back.difference.value or 0))
        assert there.difference.interval.lower == pytest.approx(-back.difference.interval.upper, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.001, 1000))
def test_the_unit_of_a_mean_changes_nothing_but_units(scale: float) -> None:
    a, b = (1396.87, 52377.9767), (2422.7, 134698.29)
    rows = [
        f"{name},{n},{y * scale!r},{yy * scale * scale!r}\n" for name, n, (y, yy) in (("a", 3000, a), ("b", 3461, b))
    ]
    plain, scaled = report(SPEND), report("variant,n,sum,sum_squares\n" + "".join(rows))
    for valid in ("at any look", "for one look only"):
        one, other = finding(plain, valid), finding(scaled, valid)
        assert other.p == pytest.approx(one.p, rel=1e-6)
        assert other.difference.interval.upper == pytest.approx(one.difference.interval.upper * scale, rel=1e-6)
        assert one.lift is not None
        assert other.lift is not None
        assert other.lift.interval.upper == pytest.approx(one.lift.interval.upper, rel=1e-6)


def test_planned_looks_have_a_boundary_that_falls_from_look_to_look() -> None:
    notes, results = [], []
    for part in (0.2, 0.4, 0.6, 0.8, 1.0):
        n = round(10_000 * part)
        text = f"variant,n,sum\na,{n},{n // 50}\nb,{n},{n // 40}\n"
        found = finding(report(text, planned=(10_000, 5)), "at planned looks only")
        notes.append(found.note)
        results.append(found.result)
    limits = [float(note.split()[-1]) for note in notes]
    assert limits == [4.88, 3.36, 2.68, 2.29, 2.03]
    assert [float(note.split()[1]) for note in notes] == pytest.approx([1.07, 1.51, 1.85, 2.14, 2.39], abs=0.02)
    assert results == ["undecided"] * 4 + ["higher"]


def test_a_small_variant_without_events_is_no_certain_difference_at_a_planned_look() -> None:
    """Its own variance would be 0; both have in common what z-tests of shares reckon with."""
    text = "variant,n,sum\na,95000,190\nb,5000,{}\n"
    for events in (1, 10, 25):
        found = finding(report(text.format(events), planned=(25_000, 5)), "at planned looks only")
        z, _ = proportions_ztest([events, 190], [5_000, 95_000])
        assert float(found.note.split()[1]) == pytest.approx(z, abs=0.006)
    assert finding(report(text.format(0), planned=(5_000, 5)), "at planned looks only").result == "lower"
    assert finding(report(text.format(5), planned=(5_000, 5)), "at planned looks only").result == "undecided"


def test_users_who_repeat_are_not_taken_for_independent_requests_at_planned_looks() -> None:
    found = report(users(1, factor=4.0), planned=(10**6, 5))
    rows = found.metrics[0].variants
    text = "variant,n,sum\n" + "".join(f"{row.variant},{row.n:.0f},{row.total:.0f}\n" for row in rows)
    z = [
        float(finding(each, "at planned looks only").note.split()[1])
        for each in (found, report(text, planned=(10**6, 5)))
    ]
    assert z[0] == pytest.approx(z[1] / math.sqrt(float(finding(found).note.split()[-1])), abs=0.05)


def test_the_anytime_interval_is_wider_than_the_one_for_one_look() -> None:
    for text in (SPEND, HILLSTROM, users(3)):
        for item in report(text).metrics[0].comparisons:
            wide, narrow = item.findings[0].difference.interval, item.findings[-1].difference.interval
            assert wide.lower < narrow.lower < narrow.upper < wide.upper


@pytest.mark.parametrize(
    "text",
    [
        "variant,n,sum\na,0,0\nb,0,0\n",
        "variant,n,sum\na,10,0\nb,10,0\n",
        "variant,n,sum\na,10,10\nb,10,10\n",
        "variant,n,sum\na,1,0\nb,0,0\n",
        "variant,n,sum\na,1000000000000,500\nb,1000000000000,100000000000\n",
        "variant,n,sum,sum_squares\na,1,5,25\nb,1,6,36\n",
        "variant,n,sum,sum_squares\na,10,50,250\nb,10,50,250\n",
        "variant,n,sum,sum_squares\na,10,-5,26\nb,10,5,26\n",
        "variant,n,sum,sum_squares\na,1000000000000,1e18,2e30\nb,1000000000000,1e18,2e30\n",
        "variant,user,n,sum\na,u,1,0\nb,v,1,1\n",
        "variant,user,n,sum\na,u,0,0\nb,v,0,0\n",
        "variant,user,n,sum\na,u,5,7.5\na,w,3,2\nb,v,4,9\nb,x,4,9\n",
        "variant,n,sum,stage\na,10,1,x\nb,10,2,y\n",
        "variant,n,sum,segment\na,10,1,x\nb,10,2,y\n",
    ],
)
def test_little_or_odd_data_give_a_report_and_no_verdict(text: str) -> None:
    found = report(text, weights={"a": 1, "b": 1}, planned=(100, 5))
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["metrics"][0]["comparisons"]
    for style in ("text", "markdown"):
        shown = as_text(found, style)
        assert "nan" not in shown
        assert "inf " not in shown
    if "000000" not in text:
        assert comparison(found).verdict == "undecided"


@pytest.mark.parametrize(("s_a", "s_b"), [(1800, 1900), (1000, 1130), (40, 80), (10, 11), (1990, 2000), (0, 12)])
def test_a_row_about_a_rate_does_not_contradict_itself(s_a: int, s_b: int) -> None:
    first = finding(report(f"variant,n,sum\na,2000,{s_a}\nb,2000,{s_b}\n"))
    assert first.lift is not None or not s_a
    intervals = [
        item.interval for item in (first.difference, first.lift) if item is not None and item.value is not None
    ]
    assert {0.0 not in interval for interval in intervals} == {first.p <= 0.05} == {first.result == "higher"}


def test_a_difference_between_common_events_is_found() -> None:
    first = finding(report("variant,n,sum\na,2000,1800\nb,2000,1900\n"))
    assert first.p < 1e-4
    assert first.result == "higher"


def test_values_without_variance_give_no_interval_and_a_p_of_one() -> None:
    """Ten times 5 and ten times 6: their variances are 0, which is no proof that the next value is 5, too."""
    first = finding(report("variant,n,sum,sum_squares\na,10,50,250\nb,10,60,360\n"))
    assert (first.p, first.result) == (1.0, "undecided")
    assert (first.difference.value, first.difference.interval) == (1.0, Interval(-math.inf, math.inf))


def test_unknown_variants_are_named() -> None:
    with pytest.raises(UnknownName, match="no variant named 'c'; there is: a, b"):
        report(SPEND, control="c")
    with pytest.raises(UnknownName, match="no variant named 'd'"):
        report(SPEND, weights={"a": 1, "d": 1})


def test_rows_that_end_early_and_users_of_two_variants_are_pointed_out() -> None:
    found = report("variant,n,sum,time\na,10,1,1\nb,10,1,1\na,20,2,2\n")
    assert any("rows of b end earlier" in warning for warning in found.warnings)
    found = report("variant,user,n,sum\na,u,1,0\nb,u,1,0\nb,v,1,0\n")
    assert any("1 of 2 users is in more than one variant" in warning for warning in found.warnings)


def test_markdown_is_a_table_and_escapes_names() -> None:
    text = as_text(report("variant,n,sum\na|b,1000,20\nb,1000,30\n"), "markdown")
    assert "| a\\|b " in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
