"""The tables of plans say what their results say, and the results are those of the shipped document."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from abmesh.analysis.planning import GoalDesign, PlanQuestion, plan_for
from abmesh.experiment.codec import parse
from bench.plans import __main__ as plans
from bench.plans.compared import agrees, documents
from bench.plans.shipped import CASES, rollout
from bench.plans.table import compared_lines, shipped_lines
from bench.worlds.documents import GOAL_SIZES

RESULTS: dict[str, Any] = json.loads(plans.RESULTS.read_text(encoding="utf-8"))


def quoted(page: Path, markers: tuple[str, str]) -> list[str]:
    return page.read_text(encoding="utf-8").partition(markers[0])[2].partition(markers[1])[0].strip("\n").split("\n")


def test_the_readme_quotes_the_results() -> None:
    """If this fails, ``python -m bench.plans --tables`` writes both pages anew."""
    assert quoted(plans.README, plans.SHIPPED) == shipped_lines(RESULTS)


def test_the_page_on_statistics_quotes_the_results() -> None:
    lines = compared_lines(RESULTS) if "compared" in RESULTS else [""]
    assert quoted(plans.STATISTICS, plans.COMPARED) == lines


def test_the_table_is_of_the_document_that_is_shipped() -> None:
    """If this fails, the document was changed: ``make plans``."""
    assert RESULTS["shipped_rollout"] == rollout()
    assert [row["candidate"] for row in RESULTS["shipped"]] == [case.name for case in CASES]


def test_equal_candidates_are_rolled_back_no_more_often_than_alpha() -> None:
    same = [row for row in RESULTS["shipped"] if row["kind"] == "same"]
    runs = sum(row["runs"] for row in same)
    back = sum(row["outcomes"].get("rolled back", {"runs": 0})["runs"] for row in same)
    assert back / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    for row in same:
        promoted = row["outcomes"]["promoted"]
        assert promoted["share"] + 2 * promoted["error"] >= 0.95, row["candidate"]


@pytest.mark.parametrize("words", ["doubled", "ten times", "every request fails", "30% higher"])
def test_harm_is_found_in_at_least_nine_of_ten_rollouts(words: str) -> None:
    for row in RESULTS["shipped"]:
        if words in row["candidate"]:
            assert row["outcomes"]["rolled back"]["share"] >= 0.9, row["candidate"]


def test_every_plan_agrees_with_the_rollouts_that_follow() -> None:
    rows = RESULTS.get("compared", [])
    assert [row for row in rows if not agrees(row)] == []
    assert {row["document"] for row in rows} in ({each.name for each in documents()}, set())
    assert len(documents()) == 5


@pytest.mark.simulation
@pytest.mark.parametrize("change", list(GOAL_SIZES))
def test_the_worlds_goals_have_the_size_that_is_planned(change: tuple[float, float]) -> None:
    baseline, effect = change
    question = PlanQuestion(baseline=baseline, unit="share", sd=None, effect=effect, goal=GoalDesign(50))
    (size,) = [each.candidate for each in plan_for(question).designs if each.name == "anytime-valid"]
    assert size == pytest.approx(GOAL_SIZES[change], rel=0.03)


def test_the_documents_are_valid() -> None:
    for each in documents():
        assert parse(each.text, each.name).experiments[0].rollout is not None


ROW = {
    "document": "d",
    "candidate": "c",
    "outcome": "promoted",
    "runs": 10_000,
    "planned_share": 0.8,
    "share": 0.8,
    "planned_minutes": 100.0,
    "minutes": 100.0,
    "planned_error": 1.0,
    "error": 1.0,
    "planned_goal_power": None,
}


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"share": 0.83}, True),
        ({"share": 0.85}, False),
        ({"minutes": 115.0}, True),
        ({"minutes": 130.0}, False),
        ({"minutes": None}, False),
        ({"minutes": None, "planned_minutes": None}, True),
        ({"runs": 50, "share": 0.65}, True),  # few runs say little
    ],
)
def test_a_plan_is_right_within_its_promise_and_monte_carlo_errors(changed: dict[str, Any], right: bool) -> None:
    row = {**ROW, **changed}
    assert agrees(row) is right
    assert compared_lines({"compared": [row], "compared_runs": 7})[4].endswith("|  |" if right else "| differs |")


def test_only_what_is_between_the_markers_is_written(tmp_path: Path) -> None:
    readme, statistics = tmp_path / "README.md", tmp_path / "statistics.md"
    readme.write_text(f"before\n{plans.SHIPPED[0]}\nold\n{plans.SHIPPED[1]}\nafter\n")
    statistics.write_text("no markers\n")
    plans.update(plans.RESULTS, readme, statistics)
    assert quoted(readme, plans.SHIPPED) == shipped_lines(RESULTS)
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("\nafter\n")
    assert statistics.read_text() == "no markers\n"
