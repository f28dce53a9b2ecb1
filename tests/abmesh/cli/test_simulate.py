from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from abmesh.cli import playing
from tests.abmesh.cli.calls import Called, call, refused
from tests.controller.support import DOCUMENT

QUICK = (
    "--runs",
    "4",
    "--processes",
    "1",
    "--users",
    "1000",
    "--traffic",
    "20",
    "--longest",
    "30m",
    "--latency",
    "100ms",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiments.yaml"
    path.write_text(DOCUMENT)
    return path


def _simulate(config: Path, *arguments: str) -> Called:
    return call("simulate", "chat", *QUICK, "--config", str(config), *arguments)


def test_a_good_candidate_is_promoted_and_nothing_is_false(config: Path) -> None:
    called = _simulate(config)
    assert called.code == 0, called
    assert "the candidate does no harm" in called.out
    assert "promoted: 100% +- 0% of 4 runs, after " in called.out
    assert "causes: last step passed (4 of 4)" in called.out
    assert "false rollbacks: 0%" in called.out
    assert "missed harm" not in called.out


def test_harm_is_found_and_shown_with_its_weight(config: Path) -> None:
    called = _simulate(config, "--error-factor", "20")
    assert "the candidate harms error_rate" in called.out
    assert "rolled back: 100% +- 0% of 4 runs" in called.out
    assert "rolled back at 10% (4 of 4)" in called.out
    assert "missed harm (promoted or declared a winner): 0%" in called.out


def test_json_is_one_line_per_truth_and_the_same_for_the_same_seed(config: Path) -> None:
    sweep = ("--sweep", "error-factor=1,20", "--json")
    first, again = _simulate(config, *sweep), _simulate(config, *sweep)
    assert first.out == again.out
    harmless, harmful = (json.loads(line) for line in first.out.splitlines())
    assert (harmless["truth"]["error_factor"], harmless["broken"], harmless["runs"]) == (1.0, [], 4)
    assert harmless["endings"] == {"promoted": 4}
    assert harmful["endings"] == {"rolled_back": 4}
    assert (harmful["broken"], harmful["missed_harm"], harmful["rolled_back_at"]) == (["error_rate"], 0.0, {"10": 4})
    assert harmless["seconds"]["promoted"]["p90"] >= harmless["seconds"]["promoted"]["median"] >= 180
    other = _simulate(config, "--seed", "2", "--json")
    assert json.loads(other.out)["requests"] != harmless["requests"]


@pytest.mark.process
def test_several_processes_give_the_same_result(config: Path) -> None:
    one, two = _simulate(config, "--json"), _simulate(config, "--json", "--processes", "2")
    assert one.out == two.out


def test_curves_are_drawn(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "power.svg"
    called = _simulate(config, "--sweep", "latency-factor=1,8", "--plot", str(target))
    assert called.code == 0, called
    assert "<svg" in target.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--error-rate", "lots"), 2, "--error-rate: 'lots' is not a share"),
        (("--sweep", "users=1,2"), 2, "--sweep: 'users=1,2' is not valid"),
        (("--sweep", "error-factor=a"), 2, "is not valid; allowed: error-factor or latency-factor"),
        (("--plot", "x.png"), 2, "--plot draws curves over several effects"),
        (("--tick", "soon"), 2, "soon"),
        (("--tick", "0s"), 2, "--tick '0s' is out of range; allowed: 100ms or more"),
        (("--tick", "1ms"), 2, "--tick '1ms' is out of range"),
        (("--tick", "1s", "--longest", "3650d"), 2, "at most 1000000 ticks until --longest '3650d'"),
        (("--latency", "0ms"), 2, "--latency '0ms' is too short"),
        (("--error-rate", "0"), 2, "'0' is not a share; allowed: a percentage, such as 1%, or 0%"),
    ],
)
def test_an_invalid_option_is_refused_in_one_line(
    config: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    called = _simulate(config, *arguments)
    assert called.code == code, called
    assert says in called.err


def test_a_candidate_worse_within_its_limit_is_not_called_harmless_if_harm_is_any(config: Path) -> None:
    guardrail = "{metric: error_rate, max_increase: 4%, harm: any}"
    config.write_text(DOCUMENT.replace("{metric: error_rate, max: 5%}", guardrail))
    called = _simulate(config, "--error-factor", "3", "--runs", "1")
    assert called.code == 0, called
    assert "is worse on error_rate, but within the limit; harm: any may roll it back" in called.out
    assert "false rollbacks" not in called.out
    assert "missed harm" not in called.out


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("x.gif", 2, "a name's ending says the format; found .gif"), ("none/x.svg", 1, "there is no folder")],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_simulated(
    config: Path, tmp_path: Path, name: str, code: int, says: str
) -> None:
    sweep = ("--runs", "100000", "--sweep", "error-factor=1,2", "--plot", str(tmp_path / name))
    refused(_simulate(config, *sweep), code, says)


def test_a_truth_without_errors_can_be_simulated(config: Path) -> None:
    called = _simulate(config, "--error-rate", "0%", "--runs", "1")
    assert called.code == 0, called
    assert "truth: errors 0% x 1" in called.out


def test_without_a_rollout_there_is_nothing_to_simulate(config: Path) -> None:
    config.write_text(DOCUMENT.split("    rollout:")[0])
    refused(_simulate(config), 1, "chat has no rollout to simulate")
    refused(call("simulate", "chta", "--config", str(config)), 1, "no experiment named 'chta'")


def test_what_cannot_be_simulated_is_left_out_and_listed(config: Path) -> None:
    rail = "        - {metric: latency_p95, max: 500ms}\n"
    config.write_text(DOCUMENT.replace(rail, f"{rail}        - {{metric: ttft_p95, max: 2s}}\n"))
    called = _simulate(config)
    assert called.code == 0, called
    first, second, _ = called.out.split("\n", 2)
    assert first == "left out, because only errors and durations are simulated: ttft_p95 max 2s"
    assert "fewer guardrails sharing alpha" in second
    assert "promoted: 100%" in called.out
    assert json.loads(_simulate(config, "--json").out)["left_out"] == ["ttft_p95 max 2s"]
    config.write_text(DOCUMENT)
    assert json.loads(_simulate(config, "--json").out)["left_out"] == []
    config.write_text(DOCUMENT.replace("error_rate, max", "refusal_rate, max").replace("latency_p95", "ttft_p95"))
    refused(_simulate(config), 1, "chat cannot be simulated: a simulation makes only errors and durations")


def test_a_secret_salt_is_not_needed(config: Path) -> None:
    name = re.search(r"- name: (.*)", DOCUMENT)
    assert name is not None
    config.write_text(DOCUMENT.replace(name[0], f"{name[0]}\n    secret_salt: {{env: ABMESH_NO_SUCH}}"))
    assert _simulate(config, "--runs", "1").code == 0


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.process)])
def test_a_long_simulation_says_on_standard_error_how_far_it_is(
    config: Path, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "PROGRESS_SECONDS", 0.0)
    called = _simulate(config, "--processes", processes, "--json")
    assert called.code == 0, called
    lines = called.err.splitlines()
    assert re.fullmatch(
        r"\d of 4 rollouts simulated in \S+; a candidate that is truly at a limit is never decided and is played until "
        r"30m \(--longest\)",
        lines[0],
    ), lines
    assert all(re.fullmatch(r"\d of 4 rollouts simulated in \S+", line) for line in lines[1:]), lines
    assert json.loads(called.out)["runs"] == 4


def test_a_quick_simulation_says_nothing_on_standard_error(config: Path) -> None:
    assert _simulate(config).err == ""
