from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from controller.codec.inputs import earlier_stages
from controller.rollout import commands
from controller.settings import Settings
from tests.abmesh.cli.calls import call, refused
from tests.controller.support import NAME, World, serve_and_tick, world


def _world(folder: Path) -> tuple[World, Path]:
    subject = world(folder)
    serve_and_tick(subject, 10)
    settings = Settings(folder / "experiments.yaml", state_dir=subject.folder)
    commands.pause(settings, NAME, now=subject.now, by="ann")
    commands.resume(settings, NAME, now=subject.now, by="ann")
    serve_and_tick(subject, 30)
    return subject, subject.folder / "journal.jsonl"


def test_a_journal_that_was_left_alone_comes_out_the_same(tmp_path: Path) -> None:
    subject, path = _world(tmp_path)
    called = call("replay", str(path))
    same = len(subject.journal()) - 2
    assert called.code == 0, called
    assert called.out == f"{same} decisions are the same, 0 differ; 2 skipped: an operator's command\n"
    lines = [json.loads(line) for line in call("replay", str(path), "--json").out.splitlines()]
    assert [line["replay"] for line in lines].count("same") == same
    assert [line["why"] for line in lines if line["replay"] == "skipped"] == ["an operator's command"] * 2
    assert [line["id"] for line in lines] == [entry.id for entry in subject.journal()]


def test_a_journal_that_was_changed_is_named_with_what_differs_and_exit_1(tmp_path: Path) -> None:
    subject, path = _world(tmp_path)
    entry = next(item for item in subject.journal() if item.cause == "passed")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["id"] == entry.id:
            line["judgements"][0]["value"] = 0.25
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    called = call("replay", str(path))
    assert called.code == 1
    assert f"{entry.kind} {entry.id} differs:" in called.out
    assert "judgements: recorded" in called.out
    assert "1 decisions differ from what their recorded inputs lead to" in called.err
    assert '"replay": "differs"' in call("replay", str(path), "--json").out.replace('":"', '": "')


def test_a_journal_that_proves_nothing_or_is_not_there_is_an_error(tmp_path: Path) -> None:
    refused(call("replay", str(tmp_path / "none.jsonl")), 1, "no such file; the journal is journal.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    called = call("replay", str(tmp_path / "empty.jsonl"))
    assert called.code == 1
    assert "no decision with recorded inputs, so nothing was checked" in called.err
    (tmp_path / "damaged.jsonl").write_text("{\n")
    assert "damaged" in call("replay", str(tmp_path / "damaged.jsonl")).err


def test_a_decision_whose_inputs_were_deleted_is_exit_1(tmp_path: Path) -> None:
    subject, path = _world(tmp_path)
    entry = next(item for item in subject.journal() if item.cause == "passed")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["id"] == entry.id:
            del line["inputs"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    called = call("replay", str(path))
    assert called.code == 1
    assert f"{entry.kind} {entry.id} differs:\n  inputs: missing, although the decision moved users" in called.out


def _cut(path: Path, *places: int) -> None:
    """Put the lines before each place aside, as the controller does with full files."""
    lines = path.read_text().splitlines(keepends=True)
    for number, (start, stop) in enumerate(pairwise([0, *places, len(lines)]), 1):
        aside = path if stop == len(lines) else path.with_name(f"journal.{number:06}.jsonl")
        aside.write_text("".join(lines[start:stop]))


def test_a_journal_in_several_files_comes_out_the_same(tmp_path: Path) -> None:
    _, path = _world(tmp_path)
    whole = call("replay", str(path), "--json")
    _cut(path, 2, 5)
    assert call("replay", str(path), "--json") == whole
    path.rename(tmp_path / "state" / "journal.000003.jsonl")
    assert call("replay", str(path), "--json") == whole


def test_entries_that_need_what_was_removed_with_older_files_are_skipped_and_the_others_recomputed(
    tmp_path: Path,
) -> None:
    subject, path = _world(tmp_path)
    entries = subject.journal()
    ends = [number for number, entry in enumerate(entries) if entry.cause == "passed"]
    _cut(path, ends[0] + 1, ends[0] + 2)
    (tmp_path / "state" / "journal.000001.jsonl").unlink()
    called = call("replay", str(path))
    assert (called.code, "0 differ" in called.out) == (0, True), "the controller keeps what it needs beside the journal"

    (tmp_path / "state" / "evidence" / f"{NAME}.bin").unlink()
    called = call("replay", str(path))
    assert called.code == 1, "every later entry needs the first stages"
    assert "earlier stages of its rollout were in older files, which were removed" in called.out
    assert "0 differ" in called.out
    assert "nothing was checked" in called.err

    (tmp_path / "state" / "journal.000002.jsonl").rename(tmp_path / "state" / "journal.000001.jsonl")
    called = call("replay", str(path))
    assert called.code == 1
    assert "the evidence of an earlier stage is missing" in called.out, "no file was removed, so a line was"


def test_a_line_that_was_taken_out_of_what_is_left_is_a_difference(tmp_path: Path) -> None:
    subject, path = _world(tmp_path)
    entries = subject.journal()
    ends = [number for number, entry in enumerate(entries) if len(earlier_stages(entry)) == 2]
    assert ends
    known = earlier_stages(entries[ends[0]])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["id"] != known[1]))
    path.with_name("journal.000002.jsonl").write_text("")
    (tmp_path / "state" / "evidence" / f"{NAME}.bin").unlink()
    called = call("replay", str(path))
    assert called.code == 1
    assert f"the evidence of an earlier stage is missing from this journal: entry {known[1]}" in called.out
