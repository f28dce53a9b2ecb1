"""The commands in the documentation of planning and analysis print what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from abmesh.cli.main import app
from tests.abmesh.cli.calls import call
from tests.paths import ROOT

PAGE = ROOT / "docs" / "operations" / "analysis.md"
TEXT = PAGE.read_text()
FILES = re.findall(r"`([a-z]+\.csv)`:\n\n```csv\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = re.findall(r"```console\n\$ abmesh (.*?)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_a_command_prints_what_is_shown(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES:
        (tmp_path / name).write_text(content)
    called = call(*shlex.split(command))
    assert called.code == 0, called
    assert called.out == shown


def test_there_is_something_to_compare() -> None:
    assert len(BLOCKS) >= 4
    assert len(FILES) >= 2


@pytest.mark.parametrize("command", ["plan", "analyze"])
def test_every_option_is_documented(command: str) -> None:
    group = typer.main.get_command(app)
    found = group.commands[command]  # type: ignore[attr-defined] # typer's own group
    options = {option for parameter in found.params for option in parameter.opts if option.startswith("--")}
    missing = {option for option in options - {"--config", "--state", "--help"} if f"`{option}" not in TEXT}
    assert missing == set()
