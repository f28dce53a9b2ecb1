from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.evidence.summary import VariantEvidence
from controller.inference.judgement import Verdict
from controller.inference.thresholds import HARM_SAMPLE, MIN_SAMPLE, SIGNIFICANCE, judge, tail
from experiment.rollout import Guardrail

NOTHING = VariantEvidence()


def _rate(errors: int, requests: int) -> VariantEvidence:
    return VariantEvidence({200: requests - errors, 500: errors})


def _latency(**counts_by_ms: int) -> VariantEvidence:
    bins = {(float(name[2:]), 10.0): count for name, count in counts_by_ms.items()}
    n = sum(counts_by_ms.values())
    total = sum(int(name[2:]) * count for name, count in counts_by_ms.items())
    return VariantEvidence({200: n}, total, {}, {0: bins})


def _guardrail(metric: str, **limits: Any) -> Guardrail:
    return Guardrail(metric=metric, **limits)


def _verdict(guardrail: Guardrail, candidate: VariantEvidence, control: VariantEvidence = NOTHING) -> Verdict:
    return judge(guardrail, candidate, control).verdict


AT_MOST_5 = _guardrail("error_rate", max="5%")


@pytest.mark.parametrize(
    ("errors", "requests", "verdict"),
    [
        (0, 1, Verdict.HEALTHY),
        (5, 100, Verdict.HEALTHY),
        (6, 100, Verdict.INCONCLUSIVE),
        (1, 2, Verdict.INCONCLUSIVE),
        (HARM_SAMPLE - 1, HARM_SAMPLE - 1, Verdict.INCONCLUSIVE),
        (HARM_SAMPLE, HARM_SAMPLE, Verdict.HARMFUL),
        (15, 100, Verdict.HARMFUL),
        (600, 10_000, Verdict.HARMFUL),
        (500, 10_000, Verdict.HEALTHY),
        (50_000_001, 10**9, Verdict.INCONCLUSIVE),
        (50_100_000, 10**9, Verdict.HARMFUL),
    ],
)
def test_a_rate_is_harmful_only_if_it_is_above_its_limit_and_not_by_chance(
    errors: int, requests: int, verdict: Verdict
) -> None:
    assert _verdict(AT_MOST_5, _rate(errors, requests)) is verdict


def test_no_data_is_an_error_and_neither_good_nor_bad() -> None:
    judgement = judge(AT_MOST_5, NOTHING, NOTHING)
    assert judgement.verdict is Verdict.ERROR
    assert "no data" in judgement.text


def test_only_aborted_requests_are_no_data_for_a_rate() -> None:
    assert _verdict(AT_MOST_5, VariantEvidence({0: 500})) is Verdict.ERROR


def test_a_comparison_without_the_controls_data_is_an_error() -> None:
    guardrail = _guardrail("error_rate", max_increase="1%")
    assert _verdict(guardrail, _rate(50, 100)) is Verdict.ERROR


def test_a_comparison_with_too_little_of_the_control_is_inconclusive() -> None:
    guardrail = _guardrail("error_rate", max_increase="1%")
    assert _verdict(guardrail, _rate(50, 100), _rate(0, MIN_SAMPLE - 1)) is Verdict.INCONCLUSIVE
    assert _verdict(guardrail, _rate(50, 100), _rate(0, MIN_SAMPLE)) is Verdict.HARMFUL


@pytest.mark.parametrize(
    ("limits", "errors", "verdict"),
    [
        ({"max_increase": "1%"}, 290, Verdict.HEALTHY),  # 2% + 1%
        ({"max_increase": "1%"}, 310, Verdict.INCONCLUSIVE),
        ({"max_increase": "1%"}, 400, Verdict.INCONCLUSIVE),  # the control may well be at 2.4%
        ({"max_increase": "1%"}, 450, Verdict.HARMFUL),
        ({"max_increase": "50%", "relative": True}, 300, Verdict.HEALTHY),  # 2% times 1.5
        ({"max_increase": "50%", "relative": True}, 450, Verdict.HARMFUL),
    ],
)
def test_an_increase_is_measured_from_the_control(limits: dict[str, Any], errors: int, verdict: Verdict) -> None:
    judgement = judge(_guardrail("error_rate", **limits), _rate(errors, 10_000), _rate(200, 10_000))
    assert judgement.verdict is verdict
    assert judgement.control == 0.02
    assert judgement.limit == pytest.approx(0.03)


def test_a_control_without_an_error_does_not_forbid_the_first_one() -> None:
    guardrail = _guardrail("error_rate", max_increase="20%", relative=True)
    assert _verdict(guardrail, _rate(1, 1000), _rate(0, 100)) is Verdict.HEALTHY
    assert _verdict(guardrail, _rate(500, 1000), _rate(0, 100)) is Verdict.HARMFUL


def test_a_limit_of_nothing_allows_nothing() -> None:
    guardrail = _guardrail("error_rate", max=0)
    assert _verdict(guardrail, _rate(0, 1000)) is Verdict.HEALTHY
    assert _verdict(guardrail, _rate(1, 10**9)) is Verdict.HARMFUL


def test_a_limit_above_everything_is_always_kept() -> None:
    guardrail = _guardrail("error_rate", max_increase="50%")
    assert _verdict(guardrail, _rate(100, 100), _rate(90, 100)) is Verdict.HEALTHY


P95 = _guardrail("latency_p95", max="200ms")


@pytest.mark.parametrize(
    ("fast", "slow", "verdict"),
    [
        (95, 5, Verdict.HEALTHY),
        (94, 6, Verdict.INCONCLUSIVE),
        (80, 20, Verdict.HARMFUL),
        (0, HARM_SAMPLE - 1, Verdict.INCONCLUSIVE),
        (0, HARM_SAMPLE, Verdict.HARMFUL),
        (0, 1, Verdict.INCONCLUSIVE),
        (9_400_000, 600_000, Verdict.HARMFUL),
    ],
)
def test_a_quantile_is_too_high_if_too_many_requests_are_slower_than_its_limit(
    fast: int, slow: int, verdict: Verdict
) -> None:
    assert _verdict(P95, _latency(ms100=fast, ms300=slow)) is verdict


def test_a_quantile_is_compared_with_the_controls() -> None:
    guardrail = _guardrail("latency_p95", max_increase="20%", relative=True)
    control = _latency(ms150=1000)
    assert _verdict(guardrail, _latency(ms160=500), control) is Verdict.HEALTHY
    judgement = judge(guardrail, _latency(ms220=500), control)
    assert judgement.verdict is Verdict.HARMFUL
    assert judgement.limit == pytest.approx(159.5 * 1.2)
    assert judgement.value == pytest.approx(229.5)


def test_a_quantile_may_be_an_absolute_increase() -> None:
    guardrail = _guardrail("latency_p50", max_increase="50ms")
    assert _verdict(guardrail, _latency(ms190=500), _latency(ms150=500)) is Verdict.HEALTHY
    assert _verdict(guardrail, _latency(ms210=500), _latency(ms150=500)) is Verdict.HARMFUL


def test_a_mean_needs_a_sample() -> None:
    guardrail = _guardrail("latency_mean", max="200ms")
    assert _verdict(guardrail, _latency(ms300=MIN_SAMPLE - 1)) is Verdict.INCONCLUSIVE
    assert _verdict(guardrail, _latency(ms300=MIN_SAMPLE)) is Verdict.HARMFUL
    assert _verdict(guardrail, _latency(ms200=MIN_SAMPLE)) is Verdict.HEALTHY


@pytest.mark.parametrize(
    ("guardrail", "candidate", "text"),
    [
        (
            AT_MOST_5,
            _rate(62, 1000),
            "error_rate 6.2% over 1000 requests is, on too few requests to tell, near or above",
        ),
        (AT_MOST_5, _rate(200, 1000), "error_rate 20% over 1000 requests is above its limit of 5%"),
        (P95, _latency(ms100=1000), "latency_p95 110 ms over 1000 requests is within its limit of 200 ms"),
        (
            _guardrail("latency_p95", max_increase="20%", relative=True),
            _latency(ms100=1000),
            "latency_p95 110 ms over 1000 requests is within its limit of 191 ms (control 160 ms times 1.2)",
        ),
        (
            _guardrail("latency_mean", max_increase="30ms"),
            _latency(ms100=1000),
            "latency_mean 100 ms over 1000 requests is within its limit of 180 ms (control 150 ms plus 30 ms)",
        ),
    ],
)
def test_the_sentence_says_the_numbers(guardrail: Guardrail, candidate: VariantEvidence, text: str) -> None:
    assert judge(guardrail, candidate, _latency(ms150=1000)).text.startswith(text)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.05, 0.5, 0.95, 1.0])
def test_the_tail_is_the_binomial_one(p: float) -> None:
    n = 30
    for x in range(n + 2):
        exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(x, n + 1))
        assert tail(x, n, p) == pytest.approx(exact, rel=1e-9, abs=1e-15)


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.floats(0, 1))
def test_the_tail_is_a_probability_for_any_size(x: int, n: int, p: float) -> None:
    assert 0.0 <= tail(x, n, p) <= 1.0


@given(st.integers(1, 10**9), st.floats(0, 1), st.sampled_from(["0%", "1%", "5%", "50%", "100%"]))
def test_harm_is_never_found_within_the_limit(n: int, share: float, limit: str) -> None:
    candidate = _rate(int(n * share), n)
    judgement = judge(_guardrail("error_rate", max=limit), candidate, NOTHING)
    assert judgement.limit is not None
    assert judgement.value is not None
    if judgement.verdict is Verdict.HARMFUL:
        assert judgement.value > judgement.limit
        assert tail(candidate.errors, n, judgement.limit) < SIGNIFICANCE
    if judgement.value < judgement.limit:
        assert judgement.verdict is Verdict.HEALTHY


def test_a_controls_rate_is_as_high_as_clopper_and_pearson_say() -> None:
    # Without an error among n, the upper limit is 1 - alpha^(1/n): 6.67% of 100 requests.
    bound = 1 - SIGNIFICANCE ** (1 / 100)
    guardrail = _guardrail("error_rate", max_increase="0%")
    just, n = math.ceil(bound * 1000), 1000
    assert _verdict(guardrail, _rate(just, n), _rate(0, 100)) is Verdict.INCONCLUSIVE
    while tail(just, n, bound) >= SIGNIFICANCE:
        just += 1
    assert _verdict(guardrail, _rate(just - 1, n), _rate(0, 100)) is Verdict.INCONCLUSIVE
    assert _verdict(guardrail, _rate(just, n), _rate(0, 100)) is Verdict.HARMFUL


def test_a_controls_quantile_needs_enough_requests_to_have_an_upper_limit() -> None:
    # 0.95^n falls below one in a thousand at n = 135.
    guardrail = _guardrail("latency_p95", max_increase="0%", relative=True)
    slow = _latency(ms300=1000)
    assert _verdict(guardrail, slow, _latency(ms100=134)) is Verdict.INCONCLUSIVE
    assert _verdict(guardrail, slow, _latency(ms100=135)) is Verdict.HARMFUL
    # Six of 135 at 300 ms leave the 95th percentile at 100 ms, but it may well be at 300 ms.
    assert _verdict(guardrail, slow, _latency(ms100=129, ms300=6)) is Verdict.INCONCLUSIVE


def test_a_mean_is_harmful_only_beyond_its_standard_error() -> None:
    guardrail = _guardrail("latency_mean", max="200ms")
    # Mean 210 ms, standard error 10 ms of 100 requests, and 1 ms of 10,000.
    assert _verdict(guardrail, _latency(ms100=45, ms300=55)) is Verdict.INCONCLUSIVE
    assert _verdict(guardrail, _latency(ms100=4500, ms300=5500)) is Verdict.HARMFUL
