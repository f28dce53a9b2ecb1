"""``abmesh plan EXPERIMENT``: what is simulated, what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.abmesh.cli.calls import call, refused

ROLLOUT = """
      candidate: b
      steps: [10, 50, 100]
      stage: {min_duration: 2m, min_requests: 200}
      guardrails:
        - {metric: error_rate, max_increase: 2%}
        - {metric: latency_p95, max_increase: 30%, relative: true}
"""
EXPERIMENT = """
      candidate: b
      mode: experiment
      steps: [50]
      stage: {min_duration: 2m, min_requests: 200}
      goal: {metric: click_rate, min_effect: 10%, planned_requests: 4000}
"""


def document(path: Path, rollout: str) -> Path:
    path.write_text(f"""
version: 1
experiments:
  - name: chat
    unit: [{{header: x-user-id}}]
    variants:
      - {{name: a, cluster: a, weight: 100, control: true}}
      - {{name: b, cluster: b, weight: 0}}
    events: [click]
    rollout: {rollout}
  - name: bare
    unit: [{{header: x-user-id}}]
    variants:
      - {{name: a, cluster: a, weight: 50, control: true}}
      - {{name: b, cluster: b, weight: 50}}
""")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return document(tmp_path / "experiments.yaml", ROLLOUT)


GIVEN = ("--traffic", "50/s", "--runs", "3", "--processes", "1", "--longest", "1h")


def plan(config: Path, *options: str) -> dict[str, Any]:
    called = call("plan", "chat", "--config", str(config), *GIVEN, *options, "--json")
    assert called.code == 0, called
    found: dict[str, Any] = json.loads(called.out)
    return found


@pytest.mark.simulation
def test_without_a_difference_it_is_promoted_and_broken_twice_over_rolled_back(config: Path) -> None:
    found = plan(config)
    same, errors, latency = found["candidates"]
    assert (same["candidate"], same["kind"], errors["metric"], latency["metric"]) == (
        "no difference",
        "same",
        "error_rate",
        "latency_p95",
    )
    assert errors["candidate"] == "error_rate 1% to 5%"
    assert errors["why"] == "twice error_rate max_increase 2%"
    times = same["outcomes"]["promoted"]["seconds"]["0.5"]
    # Three stages of two minutes, each with the settle time that the controller has.
    assert 360 <= times["value"] <= 1800
    assert times["low"] <= times["value"] <= times["high"]
    for candidate in (errors, latency):
        assert candidate["outcomes"]["rolled back"]["runs"] == 3
        assert candidate["power"] == 1.0
        assert 0.1 < candidate["power_error"] < 0.3
    assert found["settle_seconds"] == 5
    assert found["assumed"]["requests_per_second"] == 50


@pytest.mark.simulation
@pytest.mark.soak
def test_the_same_seed_gives_the_same_plan_and_another_another(config: Path) -> None:
    one, same, other = (plan(config, "--seed", seed) for seed in ("7", "7", "8"))
    assert one == same
    assert one["candidates"] != other["candidates"]


@pytest.mark.simulation
def test_a_longer_settle_time_and_longer_stages_take_longer(config: Path) -> None:
    usual = plan(config)["candidates"][0]["outcomes"]["promoted"]["seconds"]["0.1"]["value"]
    settled = plan(config, "--settle", "3m")["candidates"][0]["outcomes"]["promoted"]["seconds"]["0.1"]["value"]
    assert settled >= usual + 3 * 60


@pytest.mark.simulation
def test_effects_that_are_given_take_the_place_of_twice_the_limits(config: Path) -> None:
    found = plan(config, "--error-rate", "2%", "--effect", "error_rate=x3", "--effect", "latency_p95=+50%")
    names = [candidate["candidate"] for candidate in found["candidates"]]
    assert names[:2] == ["no difference", "error_rate 2% to 6%"]
    assert names[2].startswith("latency_p95 455 ms to 683 ms")
    assert [candidate["why"] for candidate in found["candidates"]] == [None, "given", "given"]


def test_the_latency_is_as_given(config: Path) -> None:
    found = plan(config, "--latency", "100ms", "--latency-p95", "1s", "--effect", "latency_p95=+200ms", "--runs", "2")
    assert found["candidates"][1]["candidate"] == "latency_p95 1000 ms to 1200 ms"


@pytest.mark.simulation
def test_of_a_guardrail_on_a_segment_no_baseline_is_asked_for(config: Path) -> None:
    segments = "    segments: {header: x-segment, values: [power]}\n    events: [click]"
    text = config.read_text().replace("    events: [click]", segments, 1)
    rails = "{metric: error_rate, max_increase: 2%}"
    config.write_text(text.replace(rails, f"{rails}\n        - {{metric: error_rate, max: 9%, segment: power}}", 1))
    found = plan(config, "--effect", "error_rate=x9", "--runs", "1", "--longest", "5m")
    assert found["left_out"] == ["error_rate of segment power max 9%: segments are not simulated"]


def test_a_plan_says_when_harm_pauses_and_which_guardrail_only_watches(config: Path) -> None:
    text = config.read_text().replace("      guardrails:", "      on_harm: pause\n      guardrails:", 1)
    config.write_text(text.replace("30%, relative: true", "30%, relative: true, dry_run: true", 1))
    same, worse, watched = plan(config, "--runs", "1", "--longest", "5m")["candidates"]
    assert "paused" in worse["outcomes"]
    assert worse["power"] == 1
    assert watched["why"].endswith("latency_p95 max_increase 30% of the control, which only watches")
    assert "paused" not in watched["outcomes"]
    assert same["kind"] == "same"


@pytest.mark.soak
def test_a_guardrail_without_a_value_of_the_control_is_left_out_and_said(config: Path) -> None:
    config.write_text(
        config.read_text().replace(
            "- {metric: error_rate", "- {metric: cache_rate, min: 10%}\n        - {metric: error_rate"
        )
    )
    found = plan(config)
    assert any("cache_rate" in text and "--baseline" in text for text in found["left_out"])
    known = plan(config, "--baseline", "cache_rate=40%")
    assert known["left_out"] == []
    assert "cache_rate 40% to 5%" in [candidate["candidate"] for candidate in known["candidates"]]


@pytest.mark.simulation
def test_an_experiment_is_planned_by_its_goal(tmp_path: Path) -> None:
    config = document(tmp_path / "e.yaml", EXPERIMENT)
    found = plan(config, "--baseline", "click_rate=20%", "--effect", "click_rate=+10%")
    same, better, worse = found["candidates"]
    assert (same["kind"], better["kind"], worse["kind"]) == ("same", "better", "worse")
    assert better["candidate"] == "click_rate 20% to 30%"
    assert better["outcomes"]["winner"]["runs"] == 3
    assert worse["outcomes"]["rolled back"]["runs"] == 3
    goal = found["goal"]
    assert (goal["metric"], goal["planned_requests"], goal["power"]) == ("click_rate", 4000, 0.8)
    assert goal["power_at_planned"] > 0.9
    assert 500 < goal["requests"] < 4000
    assert goal["seconds"] == pytest.approx(goal["requests"] / 25)


@pytest.mark.simulation
def test_people_read_what_was_assumed_and_how_well_it_is_known(config: Path) -> None:
    called = call("plan", "chat", "--config", str(config), *GIVEN)
    assert called.code == 0
    for words in (
        "rollout with steps [10, 50, 100], each at least 2m and 200 requests of the candidate, settle time 5s",
        "assumed: 50 requests/s from 5,000 users; the control's error_rate 1%, latency_p95 455 ms",
        "3 rollouts of each candidate",
        "error_rate 1% to 5% (twice error_rate max_increase 2%)",
        "rolled back",
        "+-",
    ):
        assert words in called.out, words
    assert "simulated 3 of at most 3 rollouts of each of 3 candidates" in called.err


def test_time_is_bounded_and_every_candidate_is_simulated_at_least_once(config: Path) -> None:
    found = plan(config, "--runs", "1000", "--within", "0s")
    assert [candidate["runs"] for candidate in found["candidates"]] == [1, 1, 1]


@pytest.mark.simulation
@pytest.mark.soak
def test_the_picture_shows_power_against_effect_for_each_metric(config: Path, tmp_path: Path) -> None:
    picture = tmp_path / "power.svg"
    called = call("plan", "chat", "--config", str(config), *GIVEN, "--runs", "1", "--plot", str(picture))
    assert called.code == 0, called
    drawn = picture.read_text()
    for words in ("chat: error_rate", "chat: latency_p95", "rolled back within 1h"):
        assert words in drawn


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--traffic", "5000/s"), "takes too long to simulate; allowed: at most 2000/s"),
        (("--error-rate", "100%"), "--error-rate '100%' is not a rate"),
        (("--latency", "0ms"), "--latency '0ms' is too short"),
        (("--latency-p95", "100ms"), "--latency-p95 '100ms' is out of range; allowed: above the median, 200ms"),
        (("--longest", "0s"), "--longest '0s' is too short"),
        (("--baseline", "nothing=2%"), "names no metric of chat; allowed: METRIC=VALUE with one of cache_rate"),
        (("--baseline", "2%"), "names no metric of chat"),
        (("--baseline", "error_rate=2%"), "pass --error-rate instead"),
        (("--baseline", "latency_p95=2s"), "pass --latency and --latency-p95 instead"),
        (("--baseline", "click_rate=20ms"), "is not a value of click_rate; allowed: a share between 0% and 100%"),
        (("--baseline", "click_rate=100%"), "is not a value of click_rate"),
        (("--effect", "click_rate=+1%"), "the control's click_rate is not known; pass --baseline click_rate="),
        (("--effect", "error_rate=+0%"), "is not a possible change of error_rate"),
        (("--effect", "error_rate=x200"), "is not a possible change of error_rate; allowed: x and a factor"),
        (("--effect", "error_rate=xx"), "--effect 'x' is out of range; allowed: x and a factor"),
        (("--effect", "latency_p95=-2s"), "is not a possible change of latency_p95"),
        (("--power", "30%"), "--power '30%' is out of range"),
        (("--sd", "90ms"), "--sd is allowed only without EXPERIMENT"),
        (("--design-effect", "0"), "--design-effect is allowed only without EXPERIMENT"),
        (("--plot", "power.txt"), "power.txt"),
    ],
)
def test_nonsense_is_one_clear_line_and_exits_with_2(config: Path, options: tuple[str, ...], words: str) -> None:
    refused(call("plan", "chat", "--config", str(config), *GIVEN, *options), 2, words)


def test_what_is_missing_is_said(config: Path) -> None:
    refused(call("plan", "chat", "--config", str(config)), 2, "--traffic is missing")
    refused(call("plan", "bare", "--config", str(config), *GIVEN), 1, "bare has no rollout to plan")
    refused(call("plan", "other", "--config", str(config), *GIVEN), 1, "chat, bare")
    refused(call("plan", "--users", "7", "--baseline", "2%"), 2, "--users is allowed only with EXPERIMENT")
    refused(call("plan", "--baseline", "2%", "--baseline", "3%", "--effect", "1%"), 2, "--baseline is given 2 times")
    refused(call("plan"), 2, "--baseline is missing")
