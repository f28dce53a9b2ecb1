"""Guardrails and goals: what each metric's limits are written in, and which limits make no sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from abmesh.experiment import metrics
from abmesh.experiment.limits import LIMITS, Goal, Guardrail

UNITS: dict[metrics.Unit, Any] = {"share": "5%", "duration": "20ms", "number": 0.5, "dollars": 0.002}
NAMES = (
    *metrics.MEASURED,
    *metrics.COSTS,
    metrics.THUMBS.name,
    *(f"{event}{ending}" for event in ("click", "thumbs_down", "purchase") for ending in metrics.OF_EVENTS),
)


def guardrail(**fields: Any) -> Guardrail:
    return Guardrail.model_validate(fields)


def refused(model: type[Guardrail | Goal], **fields: Any) -> tuple[str, str]:
    """The only refusal's path and message, and what it allows."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    (detail,) = caught.value.errors()
    context = detail.get("ctx", {})
    path = ".".join(map(str, (*detail["loc"], *context.get("path", ()))))
    return f"{path}: {detail['msg']}", context.get("allowed", "")


@given(st.sampled_from(NAMES), st.sampled_from(LIMITS))
def test_a_limit_is_accepted_unless_only_a_better_candidate_could_break_it(name: str, kind: str) -> None:
    metric = metrics.find(name)
    assert metric is not None
    fields = {"metric": name, kind: UNITS[metric.unit]}
    upper = kind in ("max", "max_increase")
    if metric.more_is_better is upper:
        way = "higher" if upper else "lower"
        allowed = "min or max_decrease" if upper else "max or max_increase"
        message = f"{kind}: a {way} {name} is better, so this limit would forbid an improvement"
        assert refused(Guardrail, **fields) == (message, allowed)
        return
    rail = guardrail(**fields)
    assert (rail.kind, rail.upper, rail.compares) == (kind, upper, kind.startswith("max_"))
    assert rail.limit == getattr(rail, kind)
    assert rail.measured == metric
    assert Guardrail.model_validate(rail.model_dump(mode="json", exclude_unset=True)) == rail


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "latency_p95", "max_increase": "20%", "relative": True, "harm": "any"},
        {"metric": "latency_p95", "max_increase": 0.2, "relative": True},
        {"metric": "click_rate", "max_decrease": "5%", "relative": True, "harm": "any"},
        {"metric": "complaint_rate", "max": "1%"},
        {"metric": "refusal_rate", "max_decrease": "1%"},
        {"metric": "output_tokens_mean", "min": 20},
        {"metric": "output_tokens_mean", "max": 1e12},
        {"metric": "thumbs", "min": 0},
        {"metric": "thumbs", "min": -0.25},
        {"metric": "thumbs", "max_decrease": 0.05},
        {"metric": "error_rate", "max": "5%", "per": "user"},
        {"metric": "latency_mean", "max_increase": "20%", "relative": True, "per": "user"},
        {"metric": "latency_p95", "max": "1s", "per": "request"},
    ],
)
def test_limits_that_an_operator_may_want_are_accepted(fields: dict[str, Any]) -> None:
    rail = guardrail(**fields)
    assert Guardrail.model_validate(rail.model_dump(mode="json", exclude_unset=True)) == rail


_PLAIN = "a plain number such as 100"
_OF_CONTROL = "; or with relative: true, a percentage of the control's value such as 5%"
_PROVABLE = "more than 0"


@pytest.mark.parametrize(
    ("fields", "message", "allowed"),
    [
        ({}, ": exactly one limit is needed", "one of max, max_increase, min, max_decrease"),
        ({"max": "5%", "min": "1%"}, ": exactly one limit is needed", "one of max, max_increase, min, max_decrease"),
        (
            {"max": "5%", "relative": True},
            "relative: only max_increase and max_decrease can be relative",
            "false",
        ),
        (
            {"max": "5%", "harm": "any"},
            "harm: any change can count as harm only with max_increase or max_decrease",
            "limit",
        ),
        ({"max": "1s"}, "max: not a possible limit for error_rate", "a percentage such as 5%"),
        ({"max": 5}, "max: not a possible limit for error_rate", "a percentage such as 5%"),
        (
            {"metric": "latency_p95", "max": "5%"},
            "max: not a possible limit for latency_p95",
            "a duration such as 250ms",
        ),
        (
            {"metric": "latency_p95", "max_increase": "5%"},
            "max_increase: not a possible limit for latency_p95",
            "a duration such as 250ms" + _OF_CONTROL,
        ),
        (
            {"metric": "latency_p95", "max_increase": "5ms", "relative": True},
            "max_increase: not a possible limit for latency_p95",
            "a percentage such as 5%",
        ),
        (
            {"metric": "output_tokens_mean", "max_increase": "5%"},
            "max_increase: not a possible limit for output_tokens_mean",
            _PLAIN + _OF_CONTROL,
        ),
        ({"metric": "output_tokens_mean", "max": "5s"}, "max: not a possible limit for output_tokens_mean", _PLAIN),
        (
            {"metric": "cost_per_success", "max": "5%"},
            "max: not a possible limit for cost_per_success",
            "US dollars as a plain number such as 0.002",
        ),
        (
            {"metric": "output_tokens_mean", "max_increase": 20, "relative": True},
            "max_increase: not a possible limit for output_tokens_mean",
            "a percentage such as 5%",
        ),
        ({"max": "0%"}, "max: no number of requests can prove that a limit of 0 is kept", _PROVABLE),
        (
            {"metric": "latency_p95", "max": "0s"},
            "max: no number of requests can prove that a limit of 0 is kept",
            _PROVABLE,
        ),
        (
            {"metric": "click_rate", "min": 0},
            "min: no number of requests can prove that a limit of 0 is kept",
            _PROVABLE,
        ),
        (
            {"metric": "thumbs", "max_decrease": 0},
            "max_decrease: no number of requests can prove that a limit of 0 is kept",
            _PROVABLE,
        ),
        ({"max": -0.1}, "max: a limit below 0", "more than 0"),
        ({"metric": "thumbs", "max_decrease": -0.1}, "max_decrease: a limit below 0", "more than 0"),
        (
            {"metric": "click_rate", "min": "100%"},
            "min: no number of requests can prove that a minimum of 100% is kept",
            "less than 100%",
        ),
        (
            {"metric": "click_rate", "max_decrease": "100%", "relative": True},
            "max_decrease: no number of requests can prove that less than everything was lost",
            "less than 100%",
        ),
        (
            {"metric": "thumbs", "min": -1},
            "min: a limit that every value keeps, or every value breaks",
            "more than -1 and less than 1",
        ),
        (
            {"metric": "thumbs", "min": "5%"},
            "min: not a possible limit for thumbs",
            "a plain number such as 0.2",
        ),
        (
            {"metric": "thumbs", "max_decrease": "5%", "relative": True},
            "relative: thumbs may be 0 or negative, so a share of the control's value is meaningless",
            "false",
        ),
        (
            {"metric": "latency_p95", "max": "1s", "per": "user"},
            "per: latency_p95 is a quantile, which slices of users cannot be averaged over; a mean can",
            "request",
        ),
        (
            {"metric": "click_per_session", "min": "5%", "per": "user"},
            "per: click_per_session is per session, and a session is a user already",
            "request",
        ),
    ],
)
def test_other_limits_are_refused(fields: dict[str, Any], message: str, allowed: str) -> None:
    assert refused(Guardrail, **{"metric": "error_rate", **fields}) == (message, allowed)


@pytest.mark.parametrize("name", ["latency_mean", "tokens_per_second", "cache_rate", "click_per_session"])
def test_a_segment_has_only_what_is_counted_by_segment(name: str) -> None:
    limit = {"min": 1} if name == "tokens_per_second" else {"max": "1s" if name == "latency_mean" else "5%"}
    limit = {"min": "5%"} if name == "click_per_session" else limit
    message, allowed = refused(Guardrail, metric=name, segment="power", **limit)
    assert message == "metric: it is not counted by segment"
    assert {"error_rate", "latency_p95", "ttft_p95", "costs"} < set(allowed.split(", "))
    assert guardrail(metric=name, **limit).subject == name
    assert refused(Guardrail, metric="error_rate", segment="power", per="user", max="5%")[0].startswith(
        "per: a segment's"
    )
    assert guardrail(metric="click_rate", segment="power", min="5%").subject == "click_rate of segment power"


@pytest.mark.parametrize("model", [Guardrail, Goal])
def test_what_no_experiment_can_measure_is_refused_with_all_that_one_could(model: type[Guardrail | Goal]) -> None:
    message, allowed = refused(model, metric="latncy_p95")
    assert message == "metric: not a metric; did you mean latency_p95?"
    assert {"latency_p95", "ttft_p95", "cost_per_success", "thumbs", "EVENT_rate"} < set(allowed.split(", "))
    assert allowed.endswith("; EVENT stands for an event's name")
    assert refused(model, metric="speed")[0] == "metric: not a metric"


class TestGoal:
    @pytest.mark.parametrize(
        ("fields", "more"),
        [
            ({"metric": "click_rate"}, True),
            ({"metric": "latency_mean"}, False),
            ({"metric": "thumbs_down_per_session"}, False),
            ({"metric": "output_tokens_mean", "increase": False}, False),
            ({"metric": "purchase_value_mean", "increase": True}, True),
            ({"metric": "latency_mean", "increase": True}, True),
        ],
    )
    def test_the_metric_says_whether_more_is_better_unless_the_goal_does(
        self, fields: dict[str, Any], more: bool
    ) -> None:
        assert Goal.model_validate(fields).more_is_better is more

    def test_its_direction_is_required_if_the_metric_has_none(self) -> None:
        message = "increase: whether more complaint_rate is better depends on you"
        assert refused(Goal, metric="complaint_rate") == (message, "true or false")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"metric": "click_rate", "relative": True}, "relative: only min_effect can be relative"),
            ({"metric": "click_rate", "min_effect": "5ms"}, "min_effect: not a possible effect for click_rate"),
            ({"metric": "latency_mean", "min_effect": "5%"}, "min_effect: not a possible effect for latency_mean"),
            (
                {"metric": "cost_per_request", "min_effect": "5%"},
                "min_effect: not a possible effect for cost_per_request",
            ),
            ({"metric": "latency_mean", "min_effect": "0s"}, "min_effect: an effect of 0"),
            ({"metric": "click_rate", "min_effect": -0.01}, "min_effect: an effect of 0"),
            (
                {"metric": "thumbs", "min_effect": "5%", "relative": True},
                "relative: thumbs may be 0 or negative, so a share of the control's value is meaningless",
            ),
        ],
    )
    def test_effects_are_written_as_the_metrics_values_are(self, fields: dict[str, Any], message: str) -> None:
        assert refused(Goal, **fields)[0] == message

    def test_effects_may_be_shares_of_the_controls_value(self) -> None:
        goal = Goal.model_validate({"metric": "latency_mean", "min_effect": "5%", "relative": True})
        assert goal.min_effect == 0.05
        assert Goal.model_validate({"metric": "thumbs", "min_effect": 0.05}).min_effect == 0.05
        assert Goal.model_validate({"metric": "ttft_mean", "min_effect": "5ms"}).min_effect == timedelta(milliseconds=5)
