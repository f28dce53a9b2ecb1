"""``abmesh plan``: sizes that other programs agree with, durations, what the document says, nonsense in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import proportion_effectsize

from tests.abmesh.cli.calls import call, refused

RATE = ("--baseline", "2%", "--effect", "0.4%")


def plan(*arguments: str) -> dict[str, Any]:
    """The plan as JSON, with its designs by name."""
    called = call("plan", *arguments, "--runs", "100", "--json")
    assert called.code == 0, called
    found: dict[str, Any] = json.loads(called.out)
    found["designs"] = {design["design"]: design for design in found["designs"]}
    return found


def test_a_rate_from_2_to_2_4_percent() -> None:
    """21,066.4 in each arm according to statsmodels; a design never rounds down."""
    designs = plan(*RATE)["designs"]
    wanted = NormalIndPower().solve_power(proportion_effectsize(0.024, 0.02), alpha=0.05, power=0.8)
    assert math.floor(wanted) == 21_066
    assert designs["fixed-horizon"]["control"] == designs["fixed-horizon"]["candidate"] == math.ceil(wanted)
    assert 1.5 < designs["anytime-valid"]["ratio"] < 2.1
    assert 1.0 < designs["group-sequential"]["ratio"] < 1.05
    assert designs["group-sequential"]["expected_total"] < designs["fixed-horizon"]["total"]


def test_a_mean() -> None:
    designs = plan("--baseline", "220ms", "--sd", "90ms", "--effect", "20ms", "--power", "90%")["designs"]
    wanted = NormalIndPower().solve_power(20 / 90, alpha=0.05, power=0.9)
    assert designs["fixed-horizon"]["control"] == math.ceil(wanted)
    student = TTestIndPower().solve_power(20 / 90, alpha=0.05, power=0.9)
    assert abs(designs["fixed-horizon"]["control"] - student) <= 3


def test_uneven_weights_and_one_side() -> None:
    designs = plan(*RATE, "--weights", "95,5", "--one-sided", "--alpha", "1%")["designs"]
    effect = proportion_effectsize(0.024, 0.02)
    wanted = NormalIndPower().solve_power(effect, alpha=0.01, power=0.8, ratio=5 / 95, alternative="larger")
    assert designs["fixed-horizon"]["control"] == math.ceil(wanted)
    assert designs["fixed-horizon"]["candidate"] == math.ceil(wanted * 5 / 95)


@pytest.mark.parametrize(
    "same",
    [
        ("--baseline", "0.02", "--effect", "0.004"),
        ("--baseline", "2%", "--effect", "20%", "--relative"),
        ("--baseline", "2%", "--effect", "+0.4%", "--power", "0.8", "--alpha", "0.05", "--weights", "50%,50%"),
    ],
)
def test_the_same_question_may_be_written_in_several_ways(same: tuple[str, ...]) -> None:
    found, usual = plan(*same), plan(*RATE)
    assert found["effect"] == pytest.approx(0.004, rel=1e-12)
    assert found["designs"] == usual["designs"]


def test_a_decrease_and_a_mean_without_a_unit() -> None:
    assert plan("--baseline", "5%", "--effect=-20%", "--relative")["effect"] == pytest.approx(-0.01)
    found = plan("--baseline", "12.5", "--sd", "4", "--effect", "-1")
    assert (found["unit"], found["effect"]) == ("", -1)


def test_the_slower_arm_says_how_long_it_takes() -> None:
    found = plan(*RATE, "--weights", "80,10", "--traffic", "600/m")
    for design in found["designs"].values():
        assert design["seconds"] == pytest.approx(max(design["control"] / 8, design["candidate"] / 1), rel=1e-12)
    assert (
        found["designs"]["fixed-horizon"]["seconds"]
        == plan(*RATE, "--weights", "80,10", "--traffic", "10/s")["designs"]["fixed-horizon"]["seconds"]
    )


def test_users_who_repeat_take_more_requests() -> None:
    once, repeating = plan(*RATE)["designs"], plan(*RATE, "--design-effect", "8")["designs"]
    for name, design in once.items():
        assert repeating[name]["control"] == pytest.approx(8 * design["control"], rel=0.1, abs=8)  # by 100 simulations


def test_one_planned_look_is_the_fixed_horizon() -> None:
    designs = plan(*RATE, "--looks", "1")["designs"]
    assert designs["group-sequential"]["ratio"] == pytest.approx(1, abs=1e-6)


def test_few_events_are_pointed_out() -> None:
    text = call("plan", "--baseline", "0.01%", "--effect", "1%", "--runs", "100").out
    assert "events are expected in the smaller variant" in text


def test_the_anytime_valid_size_is_that_of_the_test_that_runs() -> None:
    """A goal's variance is taken between slices of users, which costs more than a file of independent requests."""
    found = plan("--baseline", "50%", "--effect", "2%")
    assert 1.5 < found["designs"]["anytime-valid"]["ratio"] < 1.85
    simulated = found["simulated"]
    assert (simulated["rule"], simulated["runs"], simulated["looks"]) == ("analyze", 100, 100)
    assert 0.65 < simulated["power_at_last_look"] <= simulated["power"] < 0.95
    assert simulated["power_error"] == pytest.approx(math.sqrt(simulated["power"] * (1 - simulated["power"]) / 100))
    text = call("plan", "--baseline", "220ms", "--sd", "90ms", "--effect", "20ms").out
    assert "simulated: what abmesh analyze says, 2,000 times at the anytime-valid size" in text


def test_a_size_that_is_too_large_to_simulate_is_said_to_be_rough() -> None:
    found = plan("--baseline", "50%", "--effect", "0.000001%")
    assert found["simulated"] is None
    assert any("too large to simulate" in note for note in found["notes"])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiments.yaml"
    path.write_text(
        """
version: 1
experiments:
  - name: speed
    unit: [{header: x-user-id}]
    variants:
      - {name: a, cluster: a, weight: 100, control: true}
      - {name: b, cluster: b, weight: 0}
    rollout:
      candidate: b
      mode: experiment
      steps: [20]
      analysis: {alpha: 0.01}
      goal: {metric: latency_mean, increase: false, min_effect: 10ms, looks: 3, planned_requests: 1000}
  - name: bare
    unit: [{header: x-user-id}]
    variants:
      - {name: a, cluster: a, weight: 50, control: true}
      - {name: b, cluster: b, weight: 50}
"""
    )
    return path


def test_the_document_says_weights_effect_looks_and_alpha(config: Path) -> None:
    given = ("--baseline", "200ms", "--sd", "80ms", "--experiment", "speed", "--config", str(config))
    found = plan(*given)
    assert (found["alpha"], found["looks"], found["effect"]) == (0.01, 3, -10)
    assert (found["control_share"], found["candidate_share"]) == (0.8, 0.2)
    own = plan(*given, "--alpha", "5%", "--effect", "5%", "--relative", "--weights", "50,50", "--looks", "2")
    assert (own["alpha"], own["looks"], own["effect"], own["control_share"]) == (0.05, 2, 10, 0.5)


def test_effects_of_metrics_that_are_plain_numbers_are_taken_from_the_document_as_well(config: Path) -> None:
    text = config.read_text()
    goal = "{metric: latency_mean, increase: false, min_effect: 10ms"
    assert text.count(goal) == 1
    config.write_text(text.replace(goal, "{metric: output_tokens_mean, increase: false, min_effect: 0.5"))
    found = plan("--baseline", "200", "--sd", "80", "--experiment", "speed", "--config", str(config))
    assert found["effect"] == -0.5


def test_what_the_document_lacks_is_said(config: Path) -> None:
    refused(call("plan", *RATE, "--experiment", "bare", "--config", str(config)), 2, "bare has no rollout")
    refused(call("plan", *RATE, "--experiment", "other", "--config", str(config)), 1, "speed, bare")
    refused(
        call("plan", "--baseline", "2%", "--experiment", "speed", "--config", str(config)),
        2,
        "does not match the baseline",
    )


def test_people_read_what_each_design_is_valid_for() -> None:
    called = call("plan", *RATE, "--traffic", "10/s", "--runs", "100")
    assert called.code == 0
    for words in ("21,067", "one look at the end", "planned in advance", "any number of looks at any time", "1h11m"):
        assert words in called.out
    assert "over 100 years" in call("plan", *RATE, "--traffic", "1/d", "--runs", "100").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baseline", "2%"), "--effect is missing"),
        (("--baseline", "many", "--effect", "1%"), "--baseline 'many' is not a quantity; allowed: a share such as 2%"),
        (("--baseline", "7", "--effect", "1%"), "--baseline '7' is not a quantity"),
        (("--baseline", "0%", "--effect", "1%"), "between 0% and 100%"),
        (("--baseline", "nan", "--sd", "1", "--effect", "1"), "not a quantity"),
        (("--baseline", "220ms", "--effect", "20ms"), "--sd is missing"),
        (("--baseline", "220ms", "--sd", "90", "--effect", "20ms"), "--sd '90' does not match the baseline"),
        (("--baseline", "220ms", "--sd", "0ms", "--effect", "20ms"), "--sd '0ms'"),
        (("--baseline", "0ms", "--sd", "9ms", "--effect", "20ms"), "must be above 0"),
        (("--baseline", "2%", "--sd", "1%", "--effect", "1%"), "a rate does not need one"),
        (
            ("--baseline", "220ms", "--sd", "90ms", "--effect", "5%"),
            "allowed: a duration, such as 20ms; for a share of",
        ),
        (("--baseline", "2%", "--effect", "20ms"), "allowed: a share"),
        (("--baseline", "2%", "--effect", "0%"), "--effect is 0"),
        (("--baseline", "2%", "--effect", "99%"), "must be between 0% and 100%; found 101"),
        (("--baseline", "20ms", "--sd", "9ms", "--effect=-20ms"), "must be above 0; found 0"),
        ((*RATE, "--power", "30%"), "--power '30%' is out of range; allowed: 50% to 99.99%"),
        (
            (*RATE, "--power", "50%", "--alpha", "50%", "--one-sided"),
            "--power '50%' is no more than chance finds at this --alpha; allowed: more than 50.0000%",
        ),
        ((*RATE, "--alpha", "0"), "--alpha '0' is out of range"),
        ((*RATE, "--looks", "0"), "--looks 0 is out of range; allowed: 1 to 50"),
        ((*RATE, "--looks", "51"), "--looks 51"),
        ((*RATE, "--design-effect", "0.5"), "--design-effect '0.5' is out of range"),
        ((*RATE, "--design-effect", "nan"), "--design-effect"),
        ((*RATE, "--traffic", "10"), "--traffic '10' is not a rate; allowed: requests per unit of time: 10/s"),
        ((*RATE, "--traffic", "0/s"), "--traffic '0/s'"),
        ((*RATE, "--traffic", "10/w"), "--traffic '10/w'"),
        ((*RATE, "--weights", "95"), "--weights '95' is not two weights"),
        ((*RATE, "--weights", "95,6"), "at most 100 together"),
        ((*RATE, "--weights", "100,0"), "above 0"),
    ],
)
def test_nonsense_is_one_clear_line_and_exits_with_2(arguments: tuple[str, ...], words: str) -> None:
    refused(call("plan", *arguments), 2, words)
