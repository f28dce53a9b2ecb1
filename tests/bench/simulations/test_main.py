from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.simulations.__main__ import BEGIN, DOCUMENT, END, RESULTS, document, main, replaced, rows, table, updated
from bench.simulations.families import FAMILIES
from bench.simulations.outcome import Outcome
from tests.paths import ROOT


def test_a_document_gets_the_table_between_its_markers_however_often() -> None:
    text = f"# Statistics\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
    once = replaced(text, ["| a |", "| - |"])
    assert once == f"# Statistics\n\n{BEGIN}\n| a |\n| - |\n{END}\n\nThe end.\n"
    assert replaced(once, ["| a |", "| - |"]) == once


def test_a_document_without_markers_stays_as_it_is() -> None:
    assert replaced("# Statistics\n", ["| a |"]) == "# Statistics\n"
    assert replaced(f"{BEGIN}\n", ["| a |"]) == f"{BEGIN}\n"


def test_the_table_says_which_rate_was_missed() -> None:
    outcomes = [
        Outcome("peeking", "ours", "same", 1_000, 20, allowed=0.05),
        Outcome("peeking", "naive", "same", 1_000, 400),
        Outcome("peeking", "ours", "doubled", 1_000, 500, wanted=0.95),
    ]
    rows = table(outcomes, 1_000)[-3:]
    assert rows[0] == "| peeking | ours | same | 0.0200 | at most 0.05 |"
    assert rows[1].endswith("| 0.4000 |  |")
    assert rows[2].endswith("| 0.5000 | at least 0.95 (missed) |")


@pytest.mark.process
def test_one_family_is_simulated_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "found.json"
    code = main(["--only", "sample_ratio", "--runs", "20", "--seed", "3", "--output", str(output)])
    found = json.loads(output.read_text())
    assert (found["runs"], found["seed"]) == (20, 3)
    assert all({"check", "rule", "truth", "rate", "kept"} <= row.keys() for row in found["outcomes"])
    assert code == (0 if all(row["kept"] for row in found["outcomes"]) else 1)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == len(found["outcomes"]) + 4
    assert "sample_ratio" in printed.err


def test_one_familys_rows_take_the_place_of_older_ones() -> None:
    old = {
        "means": [Outcome("peeking", "ours", "same", 1_000, 20, allowed=0.05)],
        "reports": [Outcome("a report", "ours", "same", 1_000, 30, allowed=0.05)],
    }
    new = [Outcome("a report", "ours", "same", 1_000, 10, allowed=0.05)]
    text = document(old, 1_000, 3)
    assert {name: found for name, found in updated(text, {"reports": new}, 1_000, 3).items() if found} == {
        "means": old["means"],
        "reports": new,
    }
    with pytest.raises(SystemExit, match="--runs 1000 --seed 3"):
        updated(text, {"reports": new}, 2_000, 3)


def test_the_committed_outcomes_are_the_documents_table() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    found = json.loads(text)
    lines = table(rows(updated(text, {}, found["runs"], found["seed"])), found["runs"])
    document_text = DOCUMENT.read_text(encoding="utf-8")
    assert replaced(document_text, lines) == document_text
    assert all(row["kept"] for row in found["outcomes"])
    assert {row["family"] for row in found["outcomes"]} == set(FAMILIES)


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--runs", "many"], ["--only", "nothing"], ["--update"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_every_family_is_a_module() -> None:
    for name in FAMILIES:
        assert (ROOT / "bench" / "simulations" / f"{name}.py").is_file()
