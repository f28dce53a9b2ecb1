"""Every metric and every kind of limit has a formula in words that says what it is made of."""

from __future__ import annotations

import pytest

from abmesh.analysis.explanation import choices
from abmesh.analysis.formulas import formula_of, ratio_in_words
from abmesh.experiment import metrics
from abmesh.experiment.limits import Guardrail
from tests.controller.decision.support import rollout

EVERY = metrics.available(["click", "thumbs_up", "thumbs_down", "purchase"], ["purchase"], priced=True, sessions=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("click_rate", "click events over answered requests"),
        ("click_per_session", "click events of sessions over sessions"),
        ("purchase_value_mean", "values of purchase events over purchase events with a value"),
        ("output_tokens_mean", "output tokens over answers that report their tokens"),
        ("tokens_per_second", "streamed tokens times 1000 over milliseconds from first to last token"),
        ("cost_per_success", "dollars of its tokens' price over whole answers of 200 to 399"),
        ("thumbs", "thumbs_up events minus thumbs_down events over thumbs_up events plus thumbs_down events"),
        ("latency_p95", ""),
    ],
)
def test_a_ratio_says_what_it_counts_and_what_it_is_over(name: str, words: str) -> None:
    assert ratio_in_words(EVERY[name]) == words


def test_every_metric_has_words() -> None:
    for name, metric in EVERY.items():
        assert (" over " in ratio_in_words(metric)) == (metric.quantile is None), name


def guardrail(**limit: object) -> Guardrail:
    return rollout({**limit}).guardrails[0]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"metric": "error_rate", "max": "5%"}, "all q_j above m: S errors of N requests"),
        ({"metric": "refusal_rate", "max": "5%"}, "all q_j above m: S refusals of N requests"),
        ({"metric": "cache_rate", "min": "5%"}, "all q_j below m: S answers from a cache of N requests"),
        ({"metric": "error_rate", "max_increase": "5%", "relative": True}, "more often than its share"),
        ({"metric": "cache_rate", "max_decrease": "5%", "relative": True}, "less often than its share"),
        ({"metric": "cache_rate", "max_decrease": "5%", "relative": True}, "times 1 - max_decrease"),
        ({"metric": "error_rate", "max_increase": "5%"}, "at most the control's plus max_increase"),
        ({"metric": "cache_rate", "max_decrease": "5%"}, "at least the control's minus max_decrease"),
        ({"metric": "click_rate", "max_decrease": "1%"}, "click_rate is click events over answered requests. E = sqrt"),
        ({"metric": "click_rate", "max_decrease": "1%"}, "by stage, short of what is allowed"),
        ({"metric": "output_tokens_mean", "max": 500}, "d is the candidate's value beyond the limit"),
        ({"metric": "output_tokens_mean", "min": 500}, "d is the candidate's value short of the limit"),
        ({"metric": "latency_p95", "max": "1s"}, "above a limit if more than"),
        ({"metric": "ttft_p95", "max_increase": "1s"}, "E as for the ratio of two rates, by stage"),
    ],
)
def test_a_guardrails_formula_says_which_way_harm_lies(limit: dict[str, object], words: str) -> None:
    assert words in formula_of(guardrail(**limit))


def test_what_is_made_of_few_users_is_said_for_the_metrics_that_are_judged() -> None:
    plan = rollout(
        {"metric": "click_rate", "max_decrease": "1%", "harm": "any"},
        {"metric": "ttft_p95", "max": "2s"},
        {"metric": "error_rate", "max": "5%"},
    )
    text = "\n".join(choices(plan))
    for words in (
        "a share of requests with fewer than 10 slices",
        "a quantile with fewer than 5 groups",
        "needs 50 of what it is over, and 10 slices",
        "click_rate max_decrease 1%, harm: any: a significant decrease below the control that is not",
    ):
        assert words in text
    assert "quantile" not in "\n".join(choices(rollout({"metric": "error_rate", "max": "5%"})))
