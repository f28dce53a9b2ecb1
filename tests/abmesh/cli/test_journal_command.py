"""``abmesh journal`` on a damaged journal and on unknown experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.rollout import commands
from controller.settings import Settings
from tests.abmesh.cli.calls import Called, call
from tests.controller.support import DOCUMENT, NAME


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    return Settings(tmp_path / "experiments.yaml", state_dir=tmp_path / "state")


def _journal(settings: Settings, *arguments: str) -> Called:
    return call("journal", *arguments, "--config", str(settings.config), "--state", str(settings.state_folder))


def test_damaged_lines_are_named_and_the_others_are_printed(settings: Settings) -> None:
    commands.pause(settings, NAME, by="ann")
    commands.resume(settings, NAME, by="bob")
    first, second = settings.journal_path.read_text().splitlines(keepends=True)
    settings.journal_path.write_text(first + "nonsense\n" + second)
    called = _journal(settings)
    assert called.code == 1
    assert "by ann" in called.out
    assert "by bob" in called.out
    assert called.err == f"abmesh: skipped damaged lines: {settings.journal_path}:2\n"


def test_an_experiment_without_entries_has_a_note_and_an_unknown_one_is_an_error(settings: Settings) -> None:
    note = f"abmesh: {settings.journal_path}: no decision about chat has been recorded yet; is a controller running?\n"
    assert _journal(settings, NAME) == Called(0, "", note)
    unknown = _journal(settings, "chta")
    assert (unknown.code, unknown.err) == (1, "abmesh: no experiment named 'chta'; there is: chat\n")


def test_an_experiment_that_only_the_journal_knows_is_shown(settings: Settings) -> None:
    commands.pause(settings, NAME, by="ann")
    settings.config.write_text("version: 1\nexperiments: []\n")
    called = _journal(settings, NAME)
    assert called.code == 0
    assert "by ann" in called.out
