"""The commands as a user calls them: output, exit codes, and one clear line instead of a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from abmesh.cli.main import app, run
from abmesh.experiment.bucketing import bucket_of
from abmesh.experiment.store import FileStore
from tests.abmesh.cli.calls import call, refused
from tests.paths import ROOT

NAME = "chat-model"
SURE = ("--yes", "--despite-probe")


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default document, in the folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABMESH_CONFIG", raising=False)
    monkeypatch.delenv("ABMESH_STATE", raising=False)
    return Path(shutil.copy(ROOT / "experiments.yaml", tmp_path / "experiments.yaml"))


def test_validate_accepts_the_default_document() -> None:
    result = call("validate")
    assert result.code == 0
    assert result.out.startswith("experiments.yaml: valid, 1 experiment, generation ")


def test_validate_names_file_line_field_what_was_found_and_what_is_allowed(config: Path) -> None:
    config.write_text(config.read_text().replace("on_timeout: hold ", "on_timeout: panic "))
    line = next(n for n, text in enumerate(config.read_text().splitlines(), 1) if "panic" in text)
    result = call("validate")
    assert result.code == 1
    assert f"experiments.yaml:{line}: experiments[0].rollout.on_timeout" in result.err
    assert "found panic" in result.err
    assert "hold" in result.err
    assert "rollback" in result.err


def test_a_document_that_does_not_exist_is_one_clear_line(config: Path) -> None:
    for command in (["validate"], ["status"], ["assign", NAME, "--unit", "x"], ["render", "envoy"], ["pause", NAME]):
        result = call(*command, "--config", "nowhere.yaml")
        assert result.code == 1
        assert "nowhere.yaml" in result.err
        assert result.err.count("\n") == 1


def test_the_environment_can_name_the_document(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = config.rename(config.with_name("other.yaml"))
    monkeypatch.setenv("ABMESH_CONFIG", str(moved))
    assert call("validate").code == 0


def test_schema_is_json_schema() -> None:
    result = call("schema")
    assert result.code == 0
    assert "experiments" in json.loads(result.out)["properties"]


def test_assign_says_variant_bucket_slice_and_why(config: Path) -> None:
    experiment = FileStore(config).read().document.experiment(NAME)
    bucket = bucket_of(experiment.hash_salt, b"user-1")
    place = experiment.cells[bucket]
    result = call("assign", NAME, "--unit", "user-1")
    assert result.code == 0
    for part in (place.variant, f"bucket {bucket}", f"slice {place.slice}", "owns buckets"):
        assert part in result.out


def test_assign_reads_many_units_and_prints_one_object_a_line(tmp_path: Path) -> None:
    units = ["user-1", "Zoë", "用户", "a b"]
    from_stdin = call("assign", NAME, "--units-from", "-", "--json", stdin="\r\n".join([*units, ""]).encode())
    assert from_stdin.code == 0
    records = [json.loads(line) for line in from_stdin.out.splitlines()]
    assert [record["unit"] for record in records] == units
    assert all(set(record) == {"unit", "bucket", "variant", "slice"} for record in records)
    (tmp_path / "units").write_text("\n".join(units))
    assert call("assign", NAME, "--units-from", "units", "--json").out == from_stdin.out


def test_assign_hashes_units_that_are_not_utf8_as_the_server_does(config: Path) -> None:
    salt = FileStore(config).read().document.experiment(NAME).hash_salt
    result = call("assign", NAME, "--units-from", "-", "--json", stdin=b"\xff\xfe\n")
    assert json.loads(result.out)["bucket"] == bucket_of(salt, b"\xff\xfe")


def test_assign_drops_blanks_around_a_unit_as_the_server_does() -> None:
    assert call("assign", NAME, "--unit", " user-1\t").out == call("assign", NAME, "--unit", "user-1").out


def test_a_closed_standard_input_is_one_clear_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["abmesh", "assign", NAME, "--units-from", "-"])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit, match="1"):
        run()
    assert capsys.readouterr().err == "abmesh: cannot read units from -: standard input is closed\n"


def test_help_shows_every_word_of_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich's own markup takes words in brackets for styles and drops them; Markdown does not."""
    monkeypatch.setenv("COLUMNS", "400")
    commands: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while commands:
        path, command = commands.pop()
        shown = " ".join(call(*path, "--help").out.split())
        for option in command.params:
            text = getattr(option, "help", None) or ""
            assert " ".join(text.replace("`", "").split()) in shown, (path, option.name)
        commands += [((*path, name), part) for name, part in getattr(command, "commands", {}).items()]


@pytest.mark.process
def test_output_to_a_full_disk_is_one_clear_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "abmesh.cli", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert (ended.returncode, ended.stderr) == (1, "abmesh: output: No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["assign", NAME],
        ["assign", NAME, "--unit", "x", "--units-from", "-"],
        ["weights", NAME, "model-b"],
        ["weights", NAME, "model-b=a lot"],
        ["weights", NAME, "model-b=12.345"],
        ["weights", NAME, "model-b=5", "model-b=6"],
        ["weights", NAME, "model-b=5", "--based-on", "yesterday"],
        ["weights", NAME],
        ["frobnicate"],
        ["demo", "boring"],
        ["ext-proc", "--workers", "0"],
        ["ext-proc", "--drain", "soon"],
        ["controller", "--interval", "5"],
        ["render", "envoy", "--message-timeout", "none"],
        ["journal", "--limit", "0"],
        ["journal", "--limit", "999999999999999999999"],
        ["assign", NAME, "--unit", "x", "--unit", " \t"],
        ["ext-proc", "--workers", "65"],
        ["ext-proc", "--listen", "host:" + "9" * 5000],
        ["ext-proc", "--metrics", "x" * 64 + ":1"],
        ["render", "envoy", "--admin", "0.0.0.0:9901"],
        ["render", "envoy", "--trusted-hops", "101"],
        ["render", "envoy", "--streams-per-connection", "0"],
        ["controller", "--envoy", "ftp://x"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["assign", "no-such", "--unit", "x"], "chat-model"),
        (["assign", NAME, "--units-from", "no-such-file"], "no-such-file"),
        (["weights", "no-such", "model-b=5"], "chat-model"),
        (["weights", NAME, "model-x=5"], "model-a, model-b"),
        (["weights", NAME, "model-a=50", "model-b=60"], "110"),
        (["weights", NAME, "model-b=5", "--based-on", "0000000000000"], "read"),
        (["ext-proc", "--listen", "unix:no-such-folder/socket"], "no-such-folder"),
        (["demo", "good", "--json", "no-such-folder/outcome.json"], "no-such-folder/outcome.json"),
        (["resume", NAME], "no need to resume"),
        (["pause", "no-such"], "chat-model"),
    ],
)
def test_a_refusal_is_one_line_and_exits_with_1(arguments: list[str], words: str) -> None:
    before = Path("experiments.yaml").read_bytes()
    result = call(*arguments)
    assert result.code == 1, result
    assert words in result.err
    assert result.err.startswith("abmesh: ")
    assert result.err.count("\n") == 1
    assert Path("experiments.yaml").read_bytes() == before


def test_weights_change_nothing_but_the_weights(config: Path) -> None:
    before = config.read_text()
    result = call("weights", NAME, "model-b=25")
    assert result.code == 0
    assert "model-a 95 -> 75, model-b 5 -> 25" in result.out
    assert config.read_text() == before.replace("weight: 95,", "weight: 75,").replace("weight: 5,", "weight: 25,")


def test_weights_based_on_the_present_generation_are_accepted() -> None:
    generation = call("validate").out.split()[-1]
    result = call("weights", NAME, "model-b=12.5", "--based-on", generation, "--json")
    assert result.code == 0
    record = json.loads(result.out)
    assert record["weights"] == {"model-a": 87.5, "model-b": 12.5}
    assert record["generation"] == call("validate").out.split()[-1] != generation


def test_status_of_an_experiment_that_no_controller_has_seen() -> None:
    record = json.loads(call("status", "--json").out)
    assert record["experiment"] == NAME
    assert record["weights"] == {"model-a": 95.0, "model-b": 5.0}
    assert {"stage", "state", "generation", "last_decision", "reason"} <= set(record)
    assert "controller: none running" in call("status").out


def test_a_narrow_terminal_does_not_break_a_rollouts_state_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert call("pause", NAME).code == 0
    assert call("resume", NAME, *SURE).code == 0
    assert "progressing" in call("status").out


def test_commands_write_weights_and_the_journal_without_a_controller() -> None:
    assert call("pause", NAME).code == 0
    assert json.loads(call("status", "--json").out)["state"] == "paused"
    assert call("pause", NAME).code == 1
    assert call("resume", NAME, *SURE).code == 0
    assert call("promote", NAME, "--step", *SURE).code == 0
    assert json.loads(call("status", "--json").out)["weights"]["model-b"] == 10
    assert call("promote", NAME, *SURE).code == 0
    record = json.loads(call("status", "--json").out)
    assert (record["state"], record["weights"]["model-b"]) == ("promoted", 100)
    assert call("rollback", NAME).code == 0
    record = json.loads(call("status", "--json").out)
    assert (record["state"], record["weights"]["model-b"]) == ("rolled_back", 0)
    entries = [json.loads(line) for line in call("journal", NAME, "--json").out.splitlines()]
    assert [entry["weights_after"]["model-b"] for entry in entries] == [5, 5, 10, 100, 0]
    assert all(entry["actor"] == "operator" and entry["reason"] for entry in entries)
    assert len(call("journal", NAME, "--limit", "2").out.splitlines()) == 2
    assert call("journal", "another").out == ""


def test_render_envoy_prints_what_is_kept_for_reference() -> None:
    result = call("render", "envoy")
    assert result.code == 0
    kept = (ROOT / "envoy" / "bootstrap.yaml").read_text()
    assert kept.endswith(result.out)


def test_render_envoy_sets_trusted_hops_and_streams_per_connection() -> None:
    out = call("render", "envoy", "--trusted-hops", "3", "--streams-per-connection", "77").out
    assert "xff_num_trusted_hops: 3\n" in out
    assert "max_concurrent_streams: 77\n" in out


def test_render_envoy_writes_the_first_routes_file_and_routes_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    rendered = call("render", "envoy", "--routes-file", str(file))
    assert rendered.code == 0
    assert f"path: {file}\n" in rendered.out
    first = file.read_text()
    assert json.loads(first)["resources"][0]["name"] == "abmesh"
    assert json.loads((tmp_path / "routes.json.clusters").read_text()) == ["model-a", "model-b"]
    assert call("routes", str(file)).out.startswith(f"{file}: already up to date, generation ")
    assert call("routes").out == first
    assert call("weights", NAME, "model-b=30").code == 0
    assert call("routes", str(file)).out.startswith(f"{file}: written, generation ")
    assert json.loads(file.read_text())["version_info"] != json.loads(first)["version_info"]
    assert call("routes", "--follow").code == 2
    assert call("routes", str(tmp_path / "routes.txt")).code == 2
    assert call("render", "envoy", "--routes-file", str(tmp_path / "gone" / "r.json")).out == ""


def test_render_envoy_warns_where_weights_could_never_move(config: Path, tmp_path: Path) -> None:
    assert call("render", "envoy").err == ""
    config.write_text(config.read_text().replace("    salt:", "    lane: native\n    salt:", 1))
    stuck = call("render", "envoy")
    assert stuck.code == 0
    assert f"warning: lane native without --routes-file: {NAME}: this Envoy keeps the current weights" in stuck.err
    assert call("render", "envoy", "--routes-file", str(tmp_path / "routes.json")).err == ""


def test_validate_notes_what_the_native_lane_leaves_to_the_server(config: Path) -> None:
    text = config.read_text()
    assert "lane" not in call("validate").out
    config.write_text(text.replace("    salt:", "    lane: native\n    salt:", 1))
    assert f"note: {NAME}: lane native: the server is asked about requests without a unit" in call("validate").out
    assert f"note: {NAME}: lane native: new weights, including a rollout's, reach Envoy only" in call("validate").out
    config.write_text(config.read_text().replace("header: x-user-id", "header: host", 1))
    assert "about every request: Envoy reads a header named host" in call("validate").out


def test_assign_and_render_with_a_secret_salt(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    salt = "a-secret-salt-" * 3
    text = config.read_text().replace("salt: chat-model-2026-11", "secret_salt: {env: ABMESH_SALT}")
    config.write_text(text)
    refused(call("assign", NAME, "--unit", "user-1"), 1, "no such environment variable")
    assert call("validate").code == 0, "nothing but the server and what hashes needs the secret"
    monkeypatch.setenv("ABMESH_SALT", salt)
    explained = call("assign", NAME, "--unit", "user-1")
    assert f"bucket {bucket_of(salt, b'user-1')}" in explained.out
    assert "the salt in env ABMESH_SALT" in explained.out
    rendered = call("render", "envoy")
    assert "warning" not in rendered.err
    config.write_text(text.replace("    unit:", "    lane: native\n    unit:", 1))
    native = call("render", "envoy")
    assert "holds chat-model: secret_salt" in native.err
    shown = explained.out + rendered.out + rendered.err + native.err + call("validate").out
    assert salt not in shown
    assert salt in native.out
