from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.simulations.__main__ import BEGIN, END, main, replaced, table
from bench.simulations.families import FAMILIES
from bench.simulations.outcome import Outcome


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


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--runs", "many"], ["--only", "nothing"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_every_family_is_a_module() -> None:
    for name in FAMILIES:
        assert (Path(__file__).parents[2] / "bench" / "simulations" / f"{name}.py").is_file()
