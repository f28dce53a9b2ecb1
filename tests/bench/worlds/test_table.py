"""What many rollouts come to, and the command that writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.simulations.__main__ import replaced
from bench.worlds.__main__ import BEGIN, DOCUMENT, END, RESULTS, main
from bench.worlds.table import document, restored, rows, table
from bench.worlds.world import Seen
from bench.worlds.worlds import worlds

UP = Seen("promoted", "last_step_passed", 95.0, 100.0, 40_000)
BACK = Seen("rolled_back", "harmful", 20.0, 5.0, 600)


def test_a_row_has_the_rate_and_the_median_time_of_the_runs_where_it_happened() -> None:
    found = {row.outcome.rule: row for row in rows({"equal": [UP] * 38 + [BACK, BACK]})}
    assert found["rolled back"].outcome.rate == pytest.approx(0.05)
    assert found["rolled back"].minutes == pytest.approx(20)
    assert found["sample-ratio alarm"].minutes is None
    assert all(row.outcome.kept for row in found.values())


def test_the_table_marks_what_was_missed() -> None:
    lines = table(rows({"equal": [UP] * 30 + [BACK] * 10, "hidden-20": [BACK] * 19 + [UP]}))
    assert lines[0] == (
        "10 of 40 rollouts that do no harm were rolled back. 0 of 40 rollouts had a false sample-ratio alarm."
    )
    assert lines[5].endswith("| rolled back | 40 | 0.250 | at most 0.05 (missed) | 20 min |")
    assert lines[6].endswith("| neither promoted nor rolled back | 40 | 0.000 | at most 0.05 |  |")
    assert lines[-1].endswith("| rolled back within 30 min | 20 | 0.950 | at least 1 (missed) | 20 min |")


def test_the_document_restores_every_rollout() -> None:
    found = {"equal": [UP, BACK], "segments": [Seen("undecided", "x", 120, 50, 9, found=("error_rate",))]}
    text = document(rows(found), found, 7, when="2026-11-30")
    assert restored(text) == (found, 7)
    assert json.loads(text)["rows"][0]["world"] == "equal"
    assert restored(text.replace('"equal"', '"elsewhere"'))[0].keys() == {"segments"}


def test_the_committed_rollouts_are_the_documents_table() -> None:
    """If this fails, ``make worlds`` plays them and writes both files anew."""
    found, _ = restored(RESULTS.read_text(encoding="utf-8"))
    assert found.keys() == {item.name for item in worlds()}
    made = rows(found)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert replaced(text, table(made), BEGIN, END) == text
    assert [row for row in made if row.outcome.allowed is not None and not row.outcome.kept] == []


@pytest.mark.simulation
def test_the_command_plays_some_worlds_and_says_what_was_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.json"
    code = main(["--only", "hidden-candidate", "--runs", "2", "--processes", "1", "--output", str(output)])
    found = json.loads(output.read_text())
    assert [len(seen) for seen in found["rollouts"].values()] == [2]
    assert code == (0 if all(row["kept"] for row in found["rows"]) else 1)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 5
    assert "hidden-candidate: 2 rollouts" in printed.err


@pytest.mark.parametrize(
    "arguments", [["--runs", "0"], ["--runs", "many"], ["--only", "nothing"], ["--update"], ["--processes", "0"]]
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
