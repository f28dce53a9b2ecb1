"""``abmesh journal`` on a journal that is damaged, and on an experiment that nothing knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from abmesh.cli.main import run
from controller.rollout import commands
from controller.settings import Settings
from tests.controller.support import DOCUMENT, NAME


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    return Settings(tmp_path / "experiments.yaml", state_dir=tmp_path / "state")


def _journal(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    config, state = str(settings.config), str(settings.state_folder)
    monkeypatch.setattr(sys, "argv", ["abmesh", "journal", *arguments, "--config", config, "--state", state])
    try:
        run()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_damaged_lines_are_named_and_the_others_are_printed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.pause(settings, NAME, by="ann")
    commands.resume(settings, NAME, by="bob")
    first, second = settings.journal_path.read_text().splitlines(keepends=True)
    settings.journal_path.write_text(first + "nonsense\n" + second)
    assert _journal(settings, monkeypatch) == 1
    captured = capsys.readouterr()
    assert "by ann" in captured.out
    assert "by bob" in captured.out
    assert captured.err.splitlines() == [f"abmesh: {settings.journal_path}: skipped damaged lines: 2"]


def test_an_experiment_that_nothing_knows_is_an_error_and_one_without_entries_is_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _journal(settings, monkeypatch, NAME) == 0
    assert _journal(settings, monkeypatch, "chta") == 1
    assert capsys.readouterr().err.splitlines() == ["abmesh: no experiment named 'chta'; there is: chat"]


def test_an_experiment_that_only_the_journal_knows_is_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.pause(settings, NAME, by="ann")
    settings.config.write_text("version: 1\nexperiments: []\n")
    assert _journal(settings, monkeypatch, NAME) == 0
    assert "by ann" in capsys.readouterr().out
