"""Many experiments in one file: what is compared, how p is corrected, and that chance alone finds nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from abmesh.analysis.many import SHOWN, ManyReport, many_report
from abmesh.analysis.many_reader import Many, read_many
from abmesh.analysis.many_render import as_json, as_text
from abmesh.analysis.mapping import Asked
from abmesh.analysis.results import read_results
from abmesh.analysis.table_question import TableQuestion
from abmesh.analysis.table_report import report_of
from abmesh.experiment.errors import DataError, SettingsError, UnknownName

HEADER = "test,arm,n,y\n"


def read(text: str, *metrics: str, **asked: object) -> Many:
    wanted = {"by": "test", "n": "n", **asked}
    return read_many(text.splitlines(keepends=True), "r.csv", Asked(metrics=metrics or ("y",), **wanted))  # type: ignore[arg-type] # a test's own mixture


def report(text: str, question: TableQuestion | None = None, **asked: object) -> ManyReport:
    return many_report(read(text, **asked), question or TableQuestion())


def planted(seed: int, tests: int, *, better: int = 0, variants: int = 3, size: int = 3000) -> str:
    """Tests whose variants are alike, but for the second one of the first few."""
    random, rows = np.random.default_rng(seed), [HEADER]
    for test in range(tests):
        rate = float(random.uniform(0.01, 0.05))
        for arm in range(variants):
            chance = rate * (2.2 if test < better and arm == 1 else 1.0)
            rows.append(f"t{test},v{arm},{size},{random.binomial(size, chance)}\n")
    return "".join(rows)


def test_each_variant_is_compared_with_the_rest_unless_all_have_a_control() -> None:
    found = report(HEADER + "t,a,100,10\nt,b,200,30\nt,c,300,20\n")
    assert found.against == "the rest of its experiment"
    rest = {item.variant: (item.other.n, item.other.y) for item in found.tests[0].compared}
    assert rest == {"a": (500, 50), "b": (400, 30), "c": (300, 40)}
    found = report(HEADER + "t,Control,100,10\nt,b,200,30\nt,c,300,20\n")
    assert found.against == "Control"
    assert {item.variant: item.other.y for item in found.tests[0].compared} == {"b": 10, "c": 10}
    found = report(HEADER + "t,control,100,10\nt,b,200,30\nu,a,9,1\nu,b,9,2\n")
    assert found.against == "the rest of its experiment"
    found = report(HEADER + "t,a,100,10\nt,b,200,30\nu,b,9,1\nu,c,9,2\n", TableQuestion(control="a"))
    assert (found.against, len(found.tests), found.skipped) == ("a", 1, 1)
    with pytest.raises(UnknownName, match="no variant named 'd'"):
        report(HEADER + "t,a,100,10\nt,b,200,30\n", TableQuestion(control="d"))


def test_two_variants_are_one_comparison_and_its_p_is_that_of_a_file_of_its_own() -> None:
    found = report(HEADER + "t,a,1000,30\nt,b,1100,60\n")
    (item,) = found.tests[0].compared
    assert (item.variant, found.tests[0].p) == ("a", item.p)
    _, plain = proportions_ztest([30, 60], [1000, 1100])
    assert item.plain_p == pytest.approx(plain, rel=1e-9)
    table = read_results("variant,n,sum\nb,1100,60\na,1000,30\n".splitlines(keepends=True), "r.csv", Asked(), "b")
    alone = report_of(table, TableQuestion(control="b")).metrics[0].comparisons[0]
    assert item.p == pytest.approx(alone.findings[0].p, rel=1e-9)
    (_, finding), *_ = found.strongest
    assert finding.difference.interval == alone.findings[0].difference.interval


@pytest.mark.parametrize(("adjust", "method"), [("bh", "fdr_bh"), ("holm", "holm"), (None, "fdr_bh")])
def test_p_is_corrected_within_an_experiment_and_then_for_their_number(adjust: str | None, method: str) -> None:
    text = planted(1, 12, better=3)
    found = report(text, TableQuestion(adjust=adjust))  # type: ignore[arg-type] # a test's own parameter
    counts = read(text).tests
    raw = []
    for test in counts.values():
        n, y = sum(arm.n for arm in test.values()), sum(arm.y for arm in test.values())
        p = [proportions_ztest([arm.y, y - arm.y], [arm.n, n - arm.n])[1] for arm in test.values()]
        raw.append(min(multipletests(p, method="holm")[1]))
    wanted = dict(zip(counts, multipletests(raw, method=method)[1], strict=True))
    assert {test.name: test.plain_p for test in found.tests} == pytest.approx(wanted)


def test_planted_differences_are_found_and_no_others() -> None:
    found = report(planted(2, 100, better=10))
    assert {test.name for test in found.tests if test.p <= 0.05} <= {f"t{number}" for number in range(10)}
    assert found.significant >= 8
    assert found.unadjusted[1] > found.plain_significant
    assert found.tests[0].compared[0].variant == "v1"


@pytest.mark.simulation
def test_without_a_difference_corrected_experiments_are_rarely_significant() -> None:
    """With 60 experiments of 4 variants, a file in which anything is found is wrong; uncorrected nearly all are."""
    runs, wrong, plain, raw = 60, 0, 0, 0
    for seed in range(runs):
        found = report(planted(seed, 60, variants=4, size=1500))
        wrong, plain = wrong + (found.significant > 0), plain + (found.plain_significant > 0)
        raw += found.unadjusted[1] > 0
    assert wrong <= plain <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)
    assert raw > 0.9 * runs


def test_an_even_split_is_checked_where_it_was_promised() -> None:
    text = HEADER + "t,a,1000,10\nt,b,1010,10\nu,a,1000,10\nu,b,1300,10\n"
    found = report(text, TableQuestion(weights="even"))
    assert found.uneven == 1
    assert "1 of 2 experiments are not split evenly" in as_text(found, "text")
    shown = as_json(found)
    assert [test["test"] for test in shown["tests"] if test["split_p_one_look"] < 0.01] == ["u"]
    assert "pass --weights even to check it" in as_text(report(text), "text")
    even = report(HEADER + "t,a,1000,10\nt,b,1010,10\n", TableQuestion(weights="even"))
    assert "split: no experiment is less even than chance explains" in as_text(even, "text")
    with pytest.raises(SettingsError, match="--weights of many experiments is even"):
        report(text, TableQuestion(weights={"a": 1, "b": 1}))


def test_rows_without_variants_are_variants_and_rows_without_n_are_requests() -> None:
    found = read("test,n,y\nt,100,10\nt,200,30\nu,5,1\n")
    assert {name: list(test) for name, test in found.tests.items()} == {"t": ["1", "2"], "u": ["1"]}
    assert found.numbered
    found = read("test,arm,won\nt,a,yes\nt,b,no\nt,a,no\nt,b,NA\n", "won", n=None)
    assert (found.tests["t"]["a"].n, found.tests["t"]["a"].y, found.left_out) == (2, 1, 1)
    assert not found.numbered


def test_the_report_shows_the_strongest_and_json_all() -> None:
    found = report(planted(3, 40, better=3) + "lonely,a,10,1\n,a,10,1\n")
    text = as_text(found, "text")
    assert f"The {SHOWN} with the strongest evidence" in text
    assert "1 experiment is left out for want of anything to compare" in text
    assert "1 row is left out" in text
    shown = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert len(shown["tests"]) == shown["experiments"] == 40
    assert "\n| test | variants |" in as_text(found, "markdown").replace("  ", "")
    for adjust, words in (
        ("holm", "Holm's method, so with"),
        ("none", "nothing, so 5% of"),
        ("bh", "Hochberg's method"),
    ):
        asked = TableQuestion(adjust=adjust)  # type: ignore[arg-type] # a test's own parameter
        assert words in as_text(report(planted(3, 4), asked), "text")


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("test,n,y\nt,5,6\n", {}, "r.csv:2: y: not a count of events; found 6; allowed: a whole number of at most 5"),
        ("test,n,y\nt,5,1.5\n", {}, "r.csv:2: y: not a count of events; found 1.5"),
        ("test,arm,y\nt,a,3\n", {"n": None}, "r.csv:2: y: not a share; found 3; allowed: true and false, yes and no"),
        ("test,n,y\nt,x,1\n", {}, "r.csv:2: n: not a count; found x"),
        ("test,n,y\nt,5,1\nu,5,1\n", {}, "r.csv: test: no experiment has two variants; found 2 of them"),
        (
            "test,y\nt,1\n",
            {"n": None},
            "r.csv:1: each row would be a variant of one request; allowed: --variant COLUMN",
        ),
        ("test,n,y,s\n", {"segment": "s"}, "r.csv:1: s: --segment goes without --by"),
        ("test,n,y\n\x1b,5,1\n", {}, "r.csv:2: test: not a name; found \\x1b"),
    ],
)
def test_a_bad_file_is_refused(text: str, asked: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(text, **asked)
    assert str(caught.value).startswith(message), str(caught.value)


def test_one_metric_at_a_time() -> None:
    with pytest.raises(DataError, match="--metric: many metrics of many experiments; found 2; allowed: one metric"):
        read("test,n,y,z\n", "y", "z")


def test_variants_without_requests_are_not_compared() -> None:
    found = report(HEADER + "t,a,100,10\nt,b,200,30\nt,c,0,0\nu,a,0,0\nu,b,5,1\n")
    assert [item.variant for item in found.tests[0].compared] == ["a"]
    assert (len(found.tests), found.skipped) == (1, 1)
