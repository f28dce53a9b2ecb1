from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Side
from controller.codec.outlines import outline
from controller.decision.comparisons import compare
from controller.decision.forecast import SOONER
from controller.decision.guardrails import judge
from controller.decision.look_back import Increment, LookBack
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Judgement, Verdict
from controller.evidence.counts import Counts, add
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from tests.controller.decision.support import NOTHING, arm, evidence_of, rollout, scaled, stage, text, with_failures

ERRORS = {"metric": "error_rate", "max": "5%"}
MORE_ERRORS = {"metric": "error_rate", "max_increase": "1%"}
RELATIVE_ERRORS = {"metric": "error_rate", "max_increase": "20%", "relative": True}
P95 = {"metric": "latency_p95", "max": "500ms"}
SLOWER_P95 = {"metric": "latency_p95", "max_increase": "20%", "relative": True}
MEAN = {"metric": "latency_mean", "max": "500ms"}
SLOWER_MEAN = {"metric": "latency_mean", "max_increase": "20%", "relative": True}
SLOWER_MEAN_BY = {"metric": "latency_mean", "max_increase": "30ms"}

TYPICAL = {80: 40, 100: 40, 150: 15, 300: 5}
"""How many requests of a hundred take how many milliseconds."""

SLOW_TAIL = {80: 40, 100: 40, 150: 10, 300: 10}

P95_EDGES = {"latency_p95": (300.0,)}


def _judge(guardrail: dict[str, Any], subject: RolloutEvidence, plan: Rollout | None = None) -> Judgement:
    plan = plan or rollout(guardrail)
    return judge(plan.guardrails[0], plan, subject)


@pytest.mark.parametrize(
    ("guardrail", "good", "bad"),
    [
        (ERRORS, arm(1000, 10), arm(1000, 120)),
        (MORE_ERRORS, arm(5000, 50), arm(5000, 250)),
        (RELATIVE_ERRORS, arm(100_000, 1000), arm(100_000, 1700)),
        (P95, arm(1000, ms=TYPICAL), arm(1000, ms={100: 70, 900: 30})),
        (SLOWER_P95, arm(5000, ms=TYPICAL), arm(5000, ms={100: 70, 900: 30})),
        (MEAN, arm(1010, ms=TYPICAL), arm(1010, ms={800: 50, 900: 50})),
        (SLOWER_MEAN, arm(5000, ms=TYPICAL), arm(5000, ms={240: 50, 300: 50})),
        (SLOWER_MEAN_BY, arm(5000, ms=TYPICAL), arm(5000, ms={240: 50, 300: 50})),
    ],
    ids=lambda value: f"{value['metric']}-{len(value)}-{'max' in value}" if isinstance(value, dict) else "",
)
def test_every_guardrail_finds_health_and_harm_and_says_so(guardrail: dict[str, Any], good: Any, bad: Any) -> None:
    errors = guardrail["metric"] == "error_rate"
    control = arm(good.requests, good.requests // 100) if errors else arm(good.requests, ms=TYPICAL)
    healthy = _judge(guardrail, evidence_of(control, good, edges=P95_EDGES))
    assert (healthy.verdict, healthy.needed) == (Verdict.HEALTHY, None), text(healthy)
    assert "is significantly within its limit of" in text(healthy)
    assert healthy.p_healthy <= 0.05 < healthy.p_harm
    harmful = _judge(guardrail, evidence_of(control, bad, edges=P95_EDGES))
    assert harmful.verdict is Verdict.HARMFUL, text(harmful)
    assert "is significantly above its limit of" in text(harmful)
    assert harmful.p_harm <= harmful.alpha_harm < harmful.p_healthy
    assert (harmful.control is None) == ("max" in guardrail)


def test_without_an_error_it_takes_some_130_requests_to_keep_a_limit_of_5_percent() -> None:
    verdicts = {n: _judge(ERRORS, evidence_of(arm(n), arm(n))).verdict for n in range(50, 200, 5)}
    first = next(n for n, verdict in verdicts.items() if verdict is Verdict.HEALTHY)
    assert 100 <= first <= 140
    assert all(verdict is (Verdict.HEALTHY if n >= first else Verdict.INCONCLUSIVE) for n, verdict in verdicts.items())


@pytest.mark.parametrize("guardrail", [ERRORS, MORE_ERRORS, P95, SLOWER_P95, SLOWER_MEAN])
def test_few_requests_prove_nothing_and_the_reason_says_how_many_more_it_takes(guardrail: dict[str, Any]) -> None:
    control = arm(60, 1, ms=TYPICAL)
    judgement = _judge(guardrail, evidence_of(control, arm(60, 1, ms=TYPICAL), edges=P95_EDGES))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "is within its limit of" in text(judgement)
    assert "but not significantly so far: p " in text(judgement)
    assert ", needs 0.05; if it stays so, it is healthy after about " in text(judgement)
    assert "at this rate)" in text(judgement)
    assert judgement.leads is Verdict.HEALTHY
    assert judgement.needed is not None
    assert judgement.needed > 0


@pytest.mark.parametrize(("n", "errors"), [(40, 0), (100, 2), (100, 3), (200, 7)])
def test_as_many_more_requests_as_it_says_do_decide_and_a_third_do_not(n: int, errors: int) -> None:
    needed = _judge(ERRORS, evidence_of(arm(n), arm(n, errors))).needed
    assert needed is not None

    def after(more: float) -> Verdict:
        grown = round(n + more)
        rails = rollout(ERRORS)
        subject = compare(rails.guardrails[0].measured, evidence_of(arm(n), arm(n, errors)), 100, 0.05).grown(grown / n)
        return Verdict.HEALTHY if subject.level(Side.LESS, 0.05)[0] >= math.log(20) else Verdict.INCONCLUSIVE

    assert after(needed / SOONER) is Verdict.HEALTHY
    assert after(needed / 3) is Verdict.INCONCLUSIVE


def test_a_candidate_at_its_limit_is_never_decided() -> None:
    for n in (200, 2000, 20_000, 200_000):
        judgement = _judge(ERRORS, evidence_of(arm(n), arm(n, n // 20)))
        assert judgement.verdict is Verdict.INCONCLUSIVE
    assert (judgement.needed, judgement.leads, judgement.stuck) == (None, None, True)
    assert "is at its limit of 5%: too close to it for any number of requests to settle" in text(judgement)


@pytest.mark.parametrize(
    ("guardrail", "b", "leads"),
    [
        (ERRORS, arm(100, 2), Verdict.HEALTHY),
        (ERRORS, arm(100, 9), Verdict.HARMFUL),
        ({"metric": "error_rate", "max_increase": "100%", "relative": True}, arm(2000, 26), Verdict.HEALTHY),
        (
            {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any"},
            arm(2000, 36),
            Verdict.HARMFUL,
        ),
    ],
)
def test_an_open_verdict_says_where_its_values_lead(guardrail: dict[str, Any], b: Any, leads: Verdict) -> None:
    judgement = _judge(guardrail, evidence_of(arm(2000, 20), b))
    assert (judgement.verdict, judgement.leads) == (Verdict.INCONCLUSIVE, leads), text(judgement)
    assert judgement.needed is not None


def test_no_data_of_the_candidate_or_of_the_control_is_an_error() -> None:
    nothing = _judge(ERRORS, evidence_of(arm(100), NOTHING))
    assert (nothing.verdict, nothing.value) == (Verdict.ERROR, None)
    assert "no data on error_rate of model-b yet" in text(nothing)
    alone = _judge(MORE_ERRORS, evidence_of(NOTHING, arm(100)))
    assert alone.verdict is Verdict.ERROR
    assert "no data on error_rate of model-a to compare with" in text(alone)
    assert _judge(ERRORS, evidence_of(NOTHING, arm(1000))).verdict is Verdict.HEALTHY


def test_alpha_is_split_over_what_can_roll_back_and_not_over_health() -> None:
    three = rollout(ERRORS, P95, MEAN, analysis={"alpha": "8%"})
    judgement = _judge(ERRORS, evidence_of(arm(100), arm(100)), three)
    assert judgement.alpha_harm == pytest.approx(0.02)
    assert judgement.alpha_healthy == pytest.approx(0.08)
    without = rollout(ERRORS, analysis={"alpha": "8%", "emergency_stop": "100%"})
    assert _judge(ERRORS, evidence_of(arm(100), arm(100)), without).alpha_harm == pytest.approx(0.08)


def test_health_needs_the_present_stages_own_value_to_be_within_too() -> None:
    good = stage(arm(20_000), arm(20_000), weight=1000)
    judgement = _judge(ERRORS, evidence_of(arm(100), arm(100, 8), past=[good]))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.p_healthy < 0.05
    assert judgement.needed is None
    assert "over all stages, but not within it in this stage alone, where it is 8%" in text(judgement)
    assert _judge(ERRORS, evidence_of(arm(100), arm(100, 4), past=[good])).verdict is Verdict.HEALTHY
    assert _judge(ERRORS, evidence_of(arm(100), NOTHING, past=[good])).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("guardrail", [SLOWER_P95, SLOWER_MEAN, SLOWER_MEAN_BY, P95, MEAN], ids=str)
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_control_that_fails_fast_makes_no_candidate_look_slow(guardrail: dict[str, Any], share: float) -> None:
    n = 10_010
    control = with_failures(arm(round(n * (1 - share)), ms=SLOW_TAIL), round(n * share), 5)
    candidate = arm(n, ms=SLOW_TAIL)
    found = _judge(guardrail, evidence_of(control, candidate, edges=P95_EDGES))
    assert found.verdict is Verdict.HEALTHY
    assert found.value == pytest.approx(found.control or found.value, rel=0.05)
    mirrored = _judge(guardrail, evidence_of(candidate, control, edges=P95_EDGES))
    assert mirrored.verdict is Verdict.HEALTHY, "a candidate that fails fast is no faster; its errors speak elsewhere"
    assert mirrored.value == pytest.approx(found.value, rel=0.05)


def test_a_candidate_that_fails_fast_is_not_excused_for_the_slowness_of_what_it_serves() -> None:
    control, candidate = arm(5000, ms=TYPICAL), with_failures(arm(2500, ms={200: 50, 900: 50}), 2500, 5)
    for guardrail in (SLOWER_P95, SLOWER_MEAN):
        assert _judge(guardrail, evidence_of(control, candidate, edges=P95_EDGES)).verdict is Verdict.HARMFUL


def test_stages_are_compared_each_with_its_own_control() -> None:
    """The rate rose tenfold while the candidate's share did: pooled, the candidate would look three times worse."""
    early, late = stage(arm(9000, 90), arm(1000, 10), weight=1000), (arm(5000, 500), arm(5000, 500))
    subject = evidence_of(*late, past=[early])
    judgement = _judge({**RELATIVE_ERRORS, "max_increase": "30%"}, subject)
    assert judgement.value is not None
    assert judgement.control is not None
    assert judgement.value > 1.9 * judgement.control
    assert judgement.verdict is Verdict.HEALTHY


def test_harm_any_rolls_back_what_is_worse_and_not_significantly_within_the_limit() -> None:
    # 80% more errors than the control's where 100% are allowed: within the limit, but significantly worse.
    some = {"metric": "error_rate", "max_increase": "100%", "relative": True}
    subject = evidence_of(arm(10_000, 100), arm(10_000, 180))
    assert _judge(some, subject).verdict is Verdict.INCONCLUSIVE
    judgement = _judge({**some, "harm": "any"}, subject)
    assert judgement.verdict is Verdict.HARMFUL
    assert "is significantly above model-a's, and not significantly within its limit" in text(judgement)
    within = evidence_of(arm(100_000, 1000), arm(100_000, 1400))
    assert _judge({**some, "harm": "any"}, within).verdict is Verdict.HEALTHY


def test_harm_since_a_moment_is_found_and_told_with_the_numbers_since_then() -> None:
    before = {"model-a": arm(50_000), "model-b": arm(50_000)}
    now = evidence_of(arm(50_060), arm(50_060, 30))
    assert _judge(ERRORS, now).verdict is Verdict.HEALTHY
    since = Increment(math.log(0.05), timedelta(seconds=5), arm(60, 30), arm(60), before)
    judgement = _judge(ERRORS, replace(now, look_back=LookBack((since,))))
    assert judgement.verdict is Verdict.HARMFUL
    assert (judgement.value, judgement.n, judgement.since) == (0.5, 60, 5.0)
    assert "error_rate 50% over 60 requests in the last 5 s is significantly above" in text(judgement)


@pytest.mark.parametrize("guardrail", [ERRORS, MORE_ERRORS, RELATIVE_ERRORS, P95, SLOWER_P95, MEAN, SLOWER_MEAN])
@pytest.mark.parametrize("bad", [False, True])
def test_a_single_user_who_sends_everything_proves_nothing(guardrail: dict[str, Any], bad: bool) -> None:
    errors, ms = (500, 5000) if bad else (0, 50)
    subject = evidence_of(arm(1000, 10, ms=TYPICAL), arm(1000, errors, ms=ms, slices=[17]), edges=P95_EDGES)
    assert _judge(guardrail, subject).verdict is Verdict.INCONCLUSIVE


NEGLIGIBLE = {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any", "negligible": "0.2%"}


@pytest.mark.parametrize(
    ("control", "candidate", "without", "negligible"),
    [
        (arm(50_000), arm(20_000), Verdict.INCONCLUSIVE, Verdict.HEALTHY),
        (arm(50_000), arm(200), Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        (arm(200_000, 40), arm(200_000, 160), Verdict.HARMFUL, Verdict.HEALTHY),
        (arm(50_000, 250), arm(20_000, 100), Verdict.HEALTHY, Verdict.HEALTHY),
        (arm(50_000, 250), arm(20_000, 400), Verdict.HARMFUL, Verdict.HARMFUL),
        (arm(50_000), arm(20_000, 400), Verdict.HARMFUL, Verdict.HARMFUL),
    ],
)
def test_what_is_negligible_keeps_a_relative_limit(
    control: VariantEvidence, candidate: VariantEvidence, without: Verdict, negligible: Verdict
) -> None:
    subject = evidence_of(control, candidate)
    bare = {name: value for name, value in NEGLIGIBLE.items() if name != "negligible"}
    assert _judge(bare, subject).verdict is without
    found = _judge(NEGLIGIBLE, subject)
    assert found.verdict is negligible
    assert found.limit == pytest.approx(max(0.002, 2 * (found.control or 0)))
    assert ("limit of 0.2%, below which it is negligible" in text(found)) == (found.limit == 0.002)


# Laws

RATES = st.sampled_from([0, 1, 2, 5, 10, 20, 50, 100])
SIZES = st.sampled_from([50, 200, 1000, 5000])
ANY = st.sampled_from([ERRORS, MORE_ERRORS, RELATIVE_ERRORS, P95, SLOWER_P95, MEAN, SLOWER_MEAN, SLOWER_MEAN_BY])
LATENCIES = [P95, SLOWER_P95, MEAN, SLOWER_MEAN, SLOWER_MEAN_BY]
MIXES = st.dictionaries(st.sampled_from([50, 90, 100, 150, 300, 450, 700, 2000]), st.integers(1, 50), min_size=1)


@given(ANY, SIZES, SIZES, RATES, RATES, MIXES, MIXES)
@settings(max_examples=60, deadline=None)
def test_evidence_never_shows_harm_and_health_at_once_and_more_of_the_same_never_turns_harm_into_health(
    guardrail: dict[str, Any],
    n_a: int,
    n_b: int,
    rate_a: int,
    rate_b: int,
    mix_a: dict[int, int],
    mix_b: dict[int, int],
) -> None:
    verdicts = []
    for repeat in (1, 2, 7):
        a = arm(n_a, n_a * rate_a // 1000, ms=mix_a, repeat=repeat)
        b = arm(n_b, n_b * rate_b // 1000, ms=mix_b, repeat=repeat)
        judgement = _judge(guardrail, evidence_of(a, b, edges=P95_EDGES))
        assert math.isfinite(judgement.log_e_harm)
        assert math.isfinite(judgement.log_e_healthy)
        assert min(judgement.log_e_harm, judgement.log_e_healthy) < math.log(20)
        verdicts.append(judgement.verdict)
    if Verdict.HARMFUL in verdicts:
        assert Verdict.HEALTHY not in verdicts


@given(st.sampled_from(LATENCIES), SIZES, SIZES, MIXES, MIXES)
@settings(max_examples=60, deadline=None)
def test_another_unit_of_time_changes_no_verdict(
    guardrail: dict[str, Any], n_a: int, n_b: int, mix_a: dict[int, int], mix_b: dict[int, int]
) -> None:
    a, b = arm(n_a, ms=mix_a), arm(n_b, ms=mix_b)
    limits = {name: f"{int(value[:-2]) * 10}ms" for name, value in guardrail.items() if str(value).endswith("ms")}
    once = _judge(guardrail, evidence_of(a, b, edges=P95_EDGES))
    tenfold = _judge(
        {**guardrail, **limits}, evidence_of(scaled(a, 10), scaled(b, 10), edges={"latency_p95": (3000.0,)})
    )
    assert tenfold.verdict is once.verdict
    assert tenfold.needed == once.needed
    for name in ("log_e_harm", "log_e_healthy", "design_effect"):
        assert getattr(tenfold, name) == pytest.approx(getattr(once, name), rel=1e-6, abs=1e-9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model-a", "model-b"]),
            st.integers(0, 49),
            st.sampled_from([0, 200, 404, 503]),
            st.integers(1, 60),
            st.sampled_from([90, 100, 300, 800]),
            st.integers(0, 3),
        ),
        max_size=60,
    ),
    ANY,
)
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_which_envoy_counted_what(
    requests: list[tuple[str, int, int, int, int, int]], guardrail: dict[str, Any]
) -> None:
    def counts(chosen: list[tuple[str, int, int, int, int, int]]) -> Counts:
        by_code: dict[tuple[str, int, int], int] = {}
        durations: dict[tuple[str, int, str], int] = {}
        bins: dict[tuple[str, str, int | str, float, float], int] = {}
        for variant, slice_, code, count, ms, _ in chosen:
            by_code[variant, slice_, code] = by_code.get((variant, slice_, code), 0) + count
            timed = (variant, slice_, "duration_ms")
            durations[timed] = durations.get(timed, 0) + count * ms
            key = (variant, "duration", slice_ // 5, float(ms), 10.0)
            bins[key] = bins.get(key, 0) + count
        return Counts(by_code, durations, bins)

    names = ["model-a", "model-b"]
    apart = [counts([request for request in requests if request[-1] == envoy]) for envoy in range(4)]
    merged, whole = summarize(add(apart), names), summarize(counts(requests), names)
    found = [
        _judge(guardrail, evidence_of(item["model-a"], item["model-b"], edges=P95_EDGES)) for item in (merged, whole)
    ]
    # Sums of floats depend on the order in the sixteenth digit; the journal keeps six.
    assert outline(found[0]) == outline(found[1])


@given(SIZES, RATES, RATES, MIXES, MIXES, st.sampled_from([SLOWER_MEAN, RELATIVE_ERRORS]))
@settings(max_examples=60, deadline=None)
def test_changing_the_variants_names_turns_worse_into_better(
    n: int, rate_a: int, rate_b: int, mix_a: dict[int, int], mix_b: dict[int, int], guardrail: dict[str, Any]
) -> None:
    a, b = arm(n, n * rate_a // 1000, ms=mix_a), arm(n, n * rate_b // 1000, ms=mix_b)
    metric = rollout(guardrail).guardrails[0].measured
    one, other = compare(metric, evidence_of(a, b), 1000, 0.05), compare(metric, evidence_of(b, a), 1000, 0.05)
    for side, opposite in ((Side.GREATER, Side.LESS), (Side.LESS, Side.GREATER)):
        assert one.increase(side, 0.0, relative=False)[0] == pytest.approx(
            other.increase(opposite, 0.0, relative=False)[0], rel=1e-6, abs=1e-6
        )
    if _judge(guardrail, evidence_of(a, b)).verdict is Verdict.HARMFUL:
        assert _judge(guardrail, evidence_of(b, a)).verdict is Verdict.HEALTHY
