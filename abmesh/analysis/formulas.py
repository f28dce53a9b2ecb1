"""Metrics and the e-values of their guardrails, in words. Pure; shown by ``abmesh explain``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from abmesh.experiment import metrics
from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import Metric

_AMOUNTS: Final[Mapping[str, str]] = {
    metrics.ANSWERED: "answered requests",
    metrics.ENDED: "requests",
    metrics.TIMED: "requests that no cache answered",
    metrics.SERVED: "requests that no cache answered and that did not fail",
    metrics.ERRORS: "answers of 500 or above or broken off",
    metrics.SUCCEEDED: "whole answers of 200 to 399",
    metrics.DURATION_MS: "milliseconds from request to last byte",
    metrics.SERVED_MS: "milliseconds from request to last byte",
    metrics.TTFT_MS: "milliseconds to the first token",
    metrics.FIRST_TOKENS: "answers that began",
    metrics.CACHED: "answers from a cache",
    metrics.INPUT_TOKENS: "input tokens",
    metrics.OUTPUT_TOKENS: "output tokens",
    metrics.USAGE: "answers that report their tokens",
    metrics.STREAMED_TOKENS: "streamed tokens",
    metrics.GENERATION_MS: "milliseconds from first to last token",
    metrics.STREAMS: "streamed answers that report their tokens",
    metrics.REFUSALS: "refusals",
    metrics.SESSIONS: "sessions",
    metrics.COST: "dollars of its tokens' price",
}

_OF_EVENTS: Final[Mapping[str, str]] = {
    metrics.EVENTS: "{} events",
    metrics.SESSION_EVENTS: "{} events of sessions",
    metrics.EVENT_VALUE: "values of {} events",
    metrics.VALUED_EVENTS: "{} events with a value",
}


def ratio_in_words(metric: Metric) -> str:
    """What a ratio is made of: ``click events over answered requests``; empty for a quantile, which is no ratio."""
    if metric.quantile is not None:
        return ""
    top = ""
    for name, weight in metric.parts:
        top += f"{' minus ' if weight < 0 else ' plus ' if top else ''}{_amount(name)}"
    per = " plus ".join(_amount(name) for name in metric.per)
    scale = " times 1000" if metric.parts[0][0] == metrics.STREAMED_TOKENS else ""
    return f"{top}{scale} over {per}"


def _amount(name: str) -> str:
    kind, _, event = name.partition(":")
    return _OF_EVENTS[kind].format(event) if event else _AMOUNTS[name]


def formula_of(guardrail: Guardrail) -> str:
    """How a guardrail's e-values are made, in words."""
    metric = guardrail.measured
    if metric.quantile is not None:
        return _quantile(guardrail)
    if guardrail.per == "user":
        return (
            f"{metric.name} is {ratio_in_words(metric)}, in each slice of users; slices weigh as their requests, but "
            f"none more than the median slice, and one with far more requests than is usual nothing. {_mean(guardrail)}"
        )
    return f"{metric.name} is {ratio_in_words(metric)}. {_share(guardrail) if metric.share else _mean(guardrail)}"


def _share(guardrail: Guardrail) -> str:
    counted = _amount(guardrail.measured.parts[0][0])
    one = "error" if guardrail.measured == metrics.ERROR_RATE else "one of them"
    what = "errors" if guardrail.measured == metrics.ERROR_RATE else counted
    if not guardrail.compares:
        beyond = "above" if guardrail.upper else "below"
        return (
            f"E = sum_j w_j (q_j/m)^S ((1-q_j)/(1-m))^(N-S), logit q_j = logit m + d_j, all q_j {beyond} m: S {what} "
            f"of N requests, both divided by the design effect, against a rate of m, the limit"
        )
    more, allowed, at_most = (
        ("more", "plus max_increase", "at most") if guardrail.upper else ("less", "minus max_decrease", "at least")
    )
    if guardrail.relative:
        times = "1 + max_increase" if guardrail.upper else "1 - max_decrease"
        return (
            f"E = sum_j w_j prod_stages (t_j/t_0)^S_B ((1-t_j)/(1-t_0))^S_A: whether {'an ' if one == 'error' else ''}"
            f"{one} falls on the candidate {more} often than its share of the requests, times {times}, says (Lindon "
            f"and Malek 2022, by stage)"
        )
    return f"E against 'the candidate's rate is {at_most} the control's {allowed}', exact for two rates, by stage"


def _mean(guardrail: Guardrail) -> str:
    beyond = "beyond" if guardrail.upper else "short of"
    if guardrail.compares:
        d = f"the difference of the candidate's value and the control's by stage, {beyond} what is allowed"
    else:
        d = f"the candidate's value {beyond} the limit"
    return (
        f"E = sqrt(v/(v+t)) exp(d^2 t / (2v(v+t))), one-sided and with Student's tails: d is {d}, v its squared "
        f"standard error between slices of users, for a ratio of two sums per slice (Waudby-Smith et al. 2021)"
    )


def _quantile(guardrail: Guardrail) -> str:
    """A latency; less is always better."""
    if not guardrail.compares:
        return (
            "a quantile is above a limit if more than 1 - share of the requests that did not fail are: E as for a "
            "rate, of such requests"
        )
    return (
        "requests of the control above its own quantile against those of the candidate above what is allowed: E as for "
        "the ratio of two rates, by stage, counts divided by their design effect between groups of users; requests "
        "that failed are left out"
    )
