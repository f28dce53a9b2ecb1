"""What is true of a simulation's variants, as its users' requests show it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from abmesh.analysis.truth import HeavyUser, Outage, Quantity, Segment, Truth, measurable, true_value
from abmesh.experiment import metrics
from abmesh.experiment.parts import Price

QUANTITIES = (
    Quantity("click_rate", 0.1, factor=1.5),
    Quantity("click_value_mean", 12.0, factor=0.9),
    Quantity("cache_rate", 0.8, factor=1.1, between=0.3),
    Quantity("refusal_rate", 0.05, factor=0.5, between=1.4),
    Quantity("input_tokens_mean", 300.0, within=1.0),
    Quantity("output_tokens_mean", 120.0, factor=2.0),
    Quantity("ttft_mean", 80.0, factor=1.2),
    Quantity("tokens_per_second", 40.0, factor=1.25),
)
EVERY = metrics.available(["click", "thumbs_up"], ["click"], priced=True, sessions=True)


def test_all_but_sessions_and_events_that_are_not_in_the_truth_can_be_measured() -> None:
    missing = {name for name, metric in EVERY.items() if not measurable(metric, Truth(quantities=QUANTITIES))}
    assert missing == {"click_per_session", "thumbs_up_rate", "thumbs_up_per_session"}


def test_without_prices_nothing_costs() -> None:
    truth = Truth(quantities=QUANTITIES)
    assert measurable(EVERY["cost_per_request"], truth)
    assert not measurable(EVERY["cost_per_request"], truth, priced=False)


@pytest.mark.parametrize(
    ("name", "control", "candidate"),
    [
        ("click_rate", 0.1, 0.15),
        ("click_value_mean", 12.0, 10.8),
        ("click_value_per_request", 1.2, 1.62),
        ("cache_rate", 0.8, 0.88),
        ("output_tokens_mean", 120.0, 240.0),
        ("tokens_per_second", 40.0, 50.0),
        ("error_rate", 0.28, 0.36),
        ("cost_per_request", (300 * 0.5 + 120 * 2) / 1e6, (300 * 0.2 + 240 * 1) / 1e6),
        ("cost_per_success", (300 * 0.5 + 120 * 2) / 1e6 / 0.72, (300 * 0.2 + 240 * 1) / 1e6 / 0.64),
    ],
)
def test_true_values_follow_from_the_truth(name: str, control: float, candidate: float) -> None:
    truth = Truth(
        error_rate=0.1, error_factor=2.0, quantities=QUANTITIES, control=Outage(0.2), candidate=Outage(0.2, fast=True)
    )
    prices: dict[bool, Price | None] = {False: Price(input=0.5, output=2), True: Price(input=0.2, output=1)}
    found = [true_value(EVERY[name], truth, candidate=which, prices=prices) for which in (False, True)]
    assert found == pytest.approx([control, candidate])


@pytest.mark.parametrize(
    ("metric", "value", "factor", "between", "says"),
    [
        ("error_rate", 0.1, 1, 0.5, "is not a quantity that can be simulated"),
        ("latency_mean", 100, 1, 0.5, "is not a quantity that can be simulated"),
        ("cache_rate", 0.8, 1.3, 0.1, "0.8 x 1.3 is not a share of requests"),
        ("cache_rate", 0.8, 1.1, 0.6, "vary by less than 0.5"),
    ],
)
def test_what_cannot_be_is_refused(metric: str, value: float, factor: float, between: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Quantity(metric, value, factor, between)


def test_a_truth_is_plain_data_that_compares_and_hashes() -> None:
    truth = Truth(heavy=(HeavyUser(0.1),), segments=(Segment("power", 50, 0.2),), quantities=QUANTITIES)
    assert truth == Truth(heavy=(HeavyUser(0.1),), segments=(Segment("power", 50, 0.2),), quantities=QUANTITIES)
    assert len({truth, Truth()}) == 2
    assert timedelta(seconds=truth.harm_after) == timedelta()
