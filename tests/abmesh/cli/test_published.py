"""``abmesh analyze`` on files in the form in which others publish them: the command, and no editing of the file."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from tests.abmesh.cli import published
from tests.abmesh.cli.calls import call, refused
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "operations" / "analysis.md").read_text()
COMMANDS: dict[str, str] = dict(re.findall(r"```text\n\$ abmesh (analyze (\w+)\.csv[^\n]*)\n", PAGE))
SHOWN = dict(re.findall(r"```text\n\$ abmesh analyze (\w+)\.csv[^\n]*\n(.*?)```", PAGE, re.DOTALL))
FILES = {"cookie_cats": published.cookie_cats, "hillstrom": published.hillstrom, "upworthy": published.upworthy}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    for name, content in FILES.items():
        (path / f"{name}.csv").write_text(content(), encoding="utf-8", newline="")
    return path


def documented(name: str) -> str:
    return next(command for command, of in COMMANDS.items() if of == name)


def parts(text: str) -> dict[str, str]:
    """The sections of a report by their title; the tables of a metric are one."""
    sections = re.split(r"\n\n(?!variant )", text)
    return {section.partition("\n")[0]: section for section in sections}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("cookie_cats", ("retention_1", "retention_7", "Split")),
        ("hillstrom", ("visit", "Split")),
        ("upworthy", ("Experiments with a difference", "The 10 with the strongest evidence", "How to read this")),
    ],
)
def test_the_command_of_the_page_prints_what_it_shows(
    name: str, same: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are as published, so what is made of them must be; generated amounts are not."""
    monkeypatch.chdir(folder)
    called = call(*shlex.split(documented(name)))
    assert called.code == 0, called
    printed, shown = parts(called.out), parts(SHOWN[name])
    assert printed.keys() - shown.keys() == shown.keys() - printed.keys() == set()
    for title in same:
        assert printed[title].strip() == shown[title].strip()


def test_retention_after_seven_days_is_that_of_the_textbooks(folder: Path) -> None:
    given = ("--control", "gate_30", "--metric", "retention_7", "--json")
    record = json.loads(call("analyze", str(folder / "cookie_cats.csv"), *given).out)
    (metric,) = record["metrics"]
    assert metric["kind"] == "rate"
    assert [row["sum"] for row in metric["variants"]] == [8502, 8279]
    _, p = proportions_ztest([8279, 8502], [45_489, 44_700])
    assert metric["comparisons"][0]["analyses"][-1]["p"] == pytest.approx(p, rel=1e-9)


def test_several_metrics_are_corrected_together_as_asked(folder: Path) -> None:
    given = ("--control", "gate_30", "--metric", "retention_1", "--metric", "retention_7", "--metric", "sum_gamerounds")
    found = {}
    for adjust, method in (("holm", "holm"), ("bh", "fdr_bh"), ("none", None)):
        path = str(folder / "cookie_cats.csv")
        record = json.loads(call("analyze", path, *given, "--adjust", adjust, "--json").out)
        looks = [part["comparisons"][0]["analyses"][-1] for part in record["metrics"]]
        raw = [look["p"] for look in looks]
        wanted = raw if method is None else list(multipletests(raw, method=method)[1])
        assert [look["p_adjusted"] for look in looks] == pytest.approx(wanted)
        found[adjust] = call("analyze", path, *given, "--adjust", adjust).out
    assert "p of 3 metrics: corrected by Holm's method" in found["holm"]
    assert "p of 3 metrics: corrected by Benjamini and Hochberg's method" in found["bh"]
    assert "p of 3 metrics: not corrected, so one of 3 may be significant by chance" in found["none"]


def test_hillstroms_split_and_visits_are_as_published(folder: Path) -> None:
    given = ("--variant", "segment", "--control", "No E-Mail", "--metric", "visit", "--weights", "even", "--json")
    record = json.loads(call("analyze", str(folder / "hillstrom.csv"), *given).out)
    (split,) = record["split"]
    assert split["p_one_look"] == pytest.approx(0.9037, abs=5e-5)
    rows = {row["variant"]: (row["sum"], row["requests"]) for row in record["metrics"][0]["variants"]}
    assert rows == {"No E-Mail": (2262, 21_306), "Womens E-Mail": (3238, 21_387), "Mens E-Mail": (3894, 21_307)}
    assert {item["result"] for item in record["metrics"][0]["comparisons"]} == {"higher"}


def test_upworthys_tests_with_a_difference_are_those_that_have_one(folder: Path) -> None:
    given = ("--by", "clickability_test_id", "--n", "impressions", "--metric", "clicks", "--json")
    record = json.loads(call("analyze", str(folder / "upworthy.csv"), *given).out)
    found = [int(test["test"][-6:]) for test in record["tests"] if test["p"] <= record["alpha"]]
    assert record["significant"] == len(found) >= 12
    assert all(number % 5 == 0 for number in found)
    assert record["against"] == "the rest of its experiment"


def test_upworthys_packages_may_be_named_by_several_columns(folder: Path) -> None:
    given = ("--by", "clickability_test_id", "--n", "impressions", "--metric", "clicks")
    named = ("--variant", "headline", "--variant", "eyecatcher_id", "--json")
    record = json.loads(call("analyze", str(folder / "upworthy.csv"), *given, *named).out)
    names = [variant["variant"] for test in record["tests"] for variant in test["variants"]]
    assert all(re.fullmatch(r'They Said "No" \d+, So She Did \d / 546d6fa19ad54eec8d\d{6}', name) for name in names)


def test_columns_and_the_control_must_be_named_where_nobody_can_know_them(folder: Path) -> None:
    path = str(folder / "hillstrom.csv")
    refused(call("analyze", path, "--metric", "visit"), 1, "no column is known to be the variant; found recency, hist")
    refused(call("analyze", path, "--variant", "segment"), 1, "no column is named as a metric; found recency")
    refused(
        call("analyze", path, "--variant", "segment", "--metric", "visit"),
        1,
        "no variant is named control; found ",
    )
    cookies = str(folder / "cookie_cats.csv")
    refused(call("analyze", cookies, "--metric", "retention_1"), 1, "found gate_30, gate_40; allowed: --control NAME")


def test_the_control_may_be_that_of_the_document(folder: Path, tmp_path: Path) -> None:
    from tests.controller.support import DOCUMENT

    config = tmp_path / "experiments.yaml"
    config.write_text(DOCUMENT)
    file = tmp_path / "r.csv"
    file.write_text("variant,n,sum\nmodel-b,1000,20\nmodel-a,1000,30\n")
    given = ("analyze", str(file), "--experiment", "chat", "--config", str(config), "--json")
    assert json.loads(call(*given).out)["control"] == "model-a"
