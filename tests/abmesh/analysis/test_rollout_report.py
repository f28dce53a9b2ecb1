"""The report of a rollout's strata: the same methods by stage, every metric, and the split of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from abmesh.analysis.records import AnalysisReport, ComparedVariant
from abmesh.analysis.render import as_json, as_text
from abmesh.analysis.rollout_evidence import RolloutQuestion
from abmesh.analysis.rollout_report import difference_at, report_of_strata
from abmesh.experiment.metrics import ERROR_RATE, LATENCY_MEAN, MEASURED
from controller.evidence.strata import Stratum
from controller.evidence.summary import SliceEvidence, VariantEvidence

QUESTION = RolloutQuestion(
    name="chat", control="a", slices=50, alpha=0.05, split_alpha=0.01, tuned_for=1000, tuned_alpha=0.05
)


def evidence(random: np.random.Generator, requests: int, *, errors: float, ms: float) -> VariantEvidence:
    """Requests of users in 50 slices, with exponential durations in bins of a tenth."""
    slices, groups = {}, {group: dict[tuple[float, float], int]() for group in range(10)}
    codes, total = {200: 0, 503: 0}, 0
    for number, n in enumerate(random.multinomial(requests, [0.02] * 50)):
        failed = int(random.binomial(n, errors))
        durations = random.exponential(ms, n)
        codes[503] += failed
        codes[200] += int(n) - failed
        for duration in durations:
            power = max(0, int(np.floor(np.log10(max(duration, 1)))) - 1)
            width = float(10**power)
            key = (float(np.floor(duration / width)) * width, width)
            bins = groups[number // 5]
            bins[key] = bins.get(key, 0) + 1
        spent = round(float(durations.sum()))
        total += spent
        slices[number] = SliceEvidence(int(n) - 0, failed, 0, spent)
    return VariantEvidence(codes, total, slices, groups)


def stratum(
    seed: int,
    share: float,
    *,
    n: int = 4000,
    errors: tuple[float, float] = (0.02, 0.02),
    ms: tuple[float, float] = (100, 100),
) -> Stratum:
    random = np.random.default_rng(seed)
    points = round(share * 10_000)
    found = {
        "a": evidence(random, round(n * (1 - share)), errors=errors[0], ms=ms[0]),
        "b": evidence(random, round(n * share), errors=errors[1], ms=ms[1]),
    }
    # The control's quantiles as they were before the stage.
    edges = {name: (ms[0] * float(-np.log(1 - q)),) for name, q in QUANTILES.items()}
    return Stratum({"a": 10_000 - points, "b": points}, found, edges)


ALL = [name for name in MEASURED if name == "error_rate" or name.startswith("latency_")]
LATENCIES = tuple(MEASURED[name] for name in ALL)

QUANTILES: Mapping[str, float] = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p95": 0.95, "latency_p99": 0.99}


def verdicts(found: AnalysisReport) -> dict[str, str]:
    return {part.metric.name: part.comparisons[0].verdict for part in found.metrics}


def compared(found: AnalysisReport, name: str) -> ComparedVariant:
    return next(part for part in found.metrics if part.metric.name == name).comparisons[0]


def busy(seed: int) -> Stratum:
    """One user of the candidate sends most of its requests, and never fails; all others fail often."""
    found = stratum(seed, 0.5, errors=(0.02, 0.1))
    candidate = found.variants["b"]
    old = candidate.slices[9]
    slices = {**candidate.slices, 9: replace(old, requests=old.requests + 4000, duration_ms=old.duration_ms + 40_000)}
    codes = {**candidate.codes, 200: candidate.codes[200] + 4000}
    more = replace(candidate, codes=codes, slices=slices, duration_ms=candidate.duration_ms + 40_000)
    return replace(found, variants={**found.variants, "b": more})


def test_what_typical_users_meet_is_shown_and_compared_beside_all_requests() -> None:
    found = report_of_strata([busy(1)], QUESTION, LATENCIES)
    errors, _, *quantiles = found.metrics
    control, candidate = errors.variants
    assert control.typical is not None
    assert candidate.typical is not None
    assert not control.typical.apart
    assert candidate.typical.apart
    others = [item for number, item in busy(1).variants["b"].slices.items() if number != 9]
    rate = sum(item.errors for item in others) / sum(item.requests for item in others)
    assert candidate.typical.value.value == pytest.approx(rate, rel=0.05)
    assert candidate.typical.value.interval.lower < rate < candidate.typical.value.interval.upper
    assert candidate.typical.requests == pytest.approx(rate / 3, rel=0.05)
    assert (candidate.typical.slices, candidate.typical.left_out) == (49, 1)
    requests, users = errors.comparisons[0].findings
    assert (requests.valid, users.valid) == ("at any look", "at any look, per user")
    assert users.result == "higher"
    assert users.difference.value == pytest.approx(requests.difference.value, rel=0.05)
    assert all(row.typical is None for part in quantiles for row in part.variants)
    assert all(len(part.comparisons[0].findings) == 1 for part in quantiles)
    warnings = [text for text in found.warnings if text.startswith("error_rate: a typical user of b has ")]
    assert len(warnings) == 1
    assert "over all requests: one slice of users has 67% of the requests" in warnings[0]
    text = as_text(found, "text")
    assert "a typical user" in text
    assert "at any look, per user: confidence sequence of what typical users meet" in text
    assert as_json(found)["metrics"][0]["variants"][1]["typical_user"]["slices_left_out"] == 1
    assert as_json(found)["metrics"][2]["variants"][1]["typical_user"] is None


def test_every_metric_is_reported_and_nothing_differs_where_nothing_does() -> None:
    found = report_of_strata([stratum(1, 0.05), stratum(2, 0.5)], QUESTION, LATENCIES)
    assert verdicts(found) == dict.fromkeys(ALL, "undecided")
    for part in found.metrics:
        for row in part.variants:
            assert row.value.value is not None
            assert row.value.value in row.value.interval
        first = part.comparisons[0].findings[0]
        assert first.difference.value is not None
        assert first.difference.value in first.difference.interval
        assert first.lift is not None
        assert 0 in first.lift.interval
    assert [split.alarm for split in found.splits] == [False, False]
    assert [split.stage for split in found.splits] == ["1", "2"]
    assert found.warnings == []


def test_a_slower_and_failing_candidate_shows_in_every_metric() -> None:
    found = report_of_strata([stratum(3, 0.5, n=12_000, errors=(0.02, 0.06), ms=(100, 150))], QUESTION, LATENCIES)
    assert verdicts(found) == dict.fromkeys(ALL, "higher")
    for name in QUANTILES:
        first = compared(found, name).findings[0]
        assert first.lift is not None
        assert first.lift.value == pytest.approx(0.5, abs=0.15)
        assert first.lift.interval.lower > 0
        assert first.difference.interval.lower > 0


def test_stages_whose_rates_drift_are_not_pooled() -> None:
    """The candidate gets most of its requests while everything fails more; pooled it would look twice as bad."""
    strata = [stratum(4, 0.05, n=8000, errors=(0.01, 0.01)), stratum(5, 0.5, n=8000, errors=(0.05, 0.05))]
    found = report_of_strata(strata, QUESTION, (ERROR_RATE,))
    rows = {row.variant: row.value.value or 0 for row in found.metrics[0].variants}
    assert rows["b"] > 1.7 * rows["a"]
    assert verdicts(found) == {"error_rate": "undecided"}


def test_a_split_that_is_off_alarms_in_its_stage() -> None:
    good, bad = stratum(6, 0.5), stratum(7, 0.5)
    bad = Stratum({"a": 8000, "b": 2000}, bad.variants, bad.edges)
    found = report_of_strata([good, bad], QUESTION, (ERROR_RATE,))
    assert [split.alarm for split in found.splits] == [False, True]
    assert "in stage 2" in found.warnings[0]


def test_a_variant_without_users_or_requests_is_no_error() -> None:
    nobody = Stratum({"a": 10_000, "b": 0}, {"a": stratum(8, 0.5).variants["a"]})
    assert report_of_strata([nobody], QUESTION).metrics[0].comparisons == []
    empty = Stratum({"a": 5000, "b": 5000}, {})
    found = report_of_strata([empty], QUESTION, LATENCIES)
    assert verdicts(found) == dict.fromkeys(ALL, "undecided")
    assert "nothing to compare" in as_text(found, "text")
    assert as_json(found)["metrics"][0]["variants"][0]["value"] is None


def test_requests_of_a_stage_without_weight_are_stray_and_not_compared() -> None:
    good, late = stratum(12, 0.5), stratum(13, 0.5, errors=(0.9, 0.02))
    everybody = Stratum({"a": 0, "b": 10_000}, late.variants, late.edges)
    found = report_of_strata([good, everybody], QUESTION, (ERROR_RATE,))
    assert found.metrics[0].comparisons == report_of_strata([good], QUESTION, (ERROR_RATE,)).metrics[0].comparisons


@pytest.mark.parametrize(("share", "other"), [(0.4, 0.65), (0.55, 0.4), (0.65, 0.65), (0.9, 1.0), (1.0, 1.0)])
def test_requests_that_take_no_time_are_reported(share: float, other: float) -> None:
    """Envoy counts in whole milliseconds, and those below one in a bin of no width."""

    def answered(part: float) -> VariantEvidence:
        none = round(100 * part)
        slices = {number: SliceEvidence(20, 0, 0, 100 - none) for number in range(50)}
        groups = {group: {(0.0, 0.0): none, (5.0, 1.0): 100 - none} for group in range(10)}
        return VariantEvidence({200: 1000}, 50 * (100 - none), slices, groups)

    found = report_of_strata([Stratum({"a": 5000, "b": 5000}, {"a": answered(share), "b": answered(other)})], QUESTION)
    assert "latency_p50" in as_text(found, "text")
    row = next(part for part in found.metrics if part.metric.name == "latency_p50").variants[0]
    assert row.value.value is not None
    assert row.value.value in row.value.interval


def test_a_quantile_without_a_latency_that_was_chosen_in_advance_is_called_roughly_valid() -> None:
    found = stratum(9, 0.5)
    known = compared(report_of_strata([found], QUESTION, (MEASURED["latency_p95"],)), "latency_p95")
    late = compared(
        report_of_strata([Stratum(found.weights, found.variants)], QUESTION, (MEASURED["latency_p95"],)), "latency_p95"
    )
    assert "roughly valid" in late.findings[0].method
    assert "roughly valid" not in known.findings[0].method


def test_the_text_says_which_metrics_are_only_roughly_valid() -> None:
    both = report_of_strata([replace(stratum(9, 0.5), edges={"latency_p95": (300.0,)})], QUESTION, LATENCIES)
    (line,) = [line for line in as_text(both, "text").splitlines() if "roughly valid" in line]
    assert line.strip().startswith("at any look (latency_p50, latency_p90, latency_p99): ")
    alone = report_of_strata([stratum(9, 0.5)], QUESTION, (ERROR_RATE,))
    assert "  at any look: exact test of event counts" in as_text(alone, "text")


def test_a_late_edge_is_the_controls_quantile_and_no_bound_of_a_bin() -> None:
    """What takes the control 100 to 110 ms takes the candidate 100 to 102, which a look at 100 ms does not see."""

    def answered(bins: dict[tuple[float, float], int]) -> VariantEvidence:
        n = sum(bins.values())
        slices = {number: SliceEvidence(n // 5, 0, 0, 20 * n) for number in range(50)}
        return VariantEvidence({200: 10 * n}, 1000 * n, slices, dict.fromkeys(range(10), bins))

    variants = {
        "a": answered({(90.0, 10.0): 400, (100.0, 10.0): 600}),
        "b": answered({(90.0, 10.0): 400, (100.0, 2.0): 600}),
    }
    first = compared(report_of_strata([Stratum({"a": 5000, "b": 5000}, variants)], QUESTION), "latency_p50").findings[0]
    # The control's median is 101.67 ms, the candidate's 100.33: as many are above 100 ms.
    assert first.difference.value == pytest.approx(-1.333, abs=1e-3)
    assert first.result == "lower"


def test_a_rate_that_nothing_decides_on_is_found_where_most_requests_have_the_event() -> None:
    """90% against 95% cached: the decision's test, made for rare events, hardly sees it."""
    variants = {}
    for name, cached in (("a", 18), ("b", 19)):
        slices = {number: SliceEvidence(20, 0, 0, 0, {"cached": cached}) for number in range(50)}
        variants[name] = VariantEvidence({200: 1000}, 0, slices, {}, {"cached": 50 * cached})
    strata = [Stratum({"a": 5000, "b": 5000}, variants)]
    rate = MEASURED["cache_rate"]
    free = compared(report_of_strata(strata, QUESTION, (rate,)), "cache_rate").findings[0]
    decided = report_of_strata(strata, replace(QUESTION, judged=frozenset({"cache_rate"})), (rate,))
    judged = compared(decided, "cache_rate").findings[0]
    assert free.result == "higher"
    assert judged.result == "undecided"
    # Its interval comes from bets, which reject 0, and ends just below 0, because the decision's test does not.
    assert -1e-9 < judged.difference.interval.lower < 0
    assert "-0 to +" in as_text(decided, "text")


def test_a_moment_of_a_picture_is_what_the_report_says() -> None:
    strata = [stratum(10, 0.5)]
    ((variant, estimate),) = difference_at(strata, QUESTION, LATENCY_MEAN)
    assert variant == "b"
    assert estimate == compared(report_of_strata(strata, QUESTION, LATENCIES), "latency_mean").findings[0].difference


@pytest.mark.parametrize("unit", [1, 1000])
def test_speed_is_shown_and_tuned_by_its_streams_whatever_unit_its_time_is_in(unit: int) -> None:
    """Milliseconds of generation are no observations: a thousand times as many of them prove nothing more."""
    slow, fast = (streaming(seed, ms * unit) for seed, ms in ((7, 2000), (8, 1900)))
    (part,) = report_of_strata([Stratum({"a": 5000, "b": 5000}, {"a": slow, "b": fast})], QUESTION, (SPEED,)).metrics
    assert [row.n for row in part.variants] == [slow.amounts["streams"], fast.amounts["streams"]]
    plain = report_of_strata(
        [Stratum({"a": 5000, "b": 5000}, {"a": streaming(7, 2000), "b": streaming(8, 1900)})], QUESTION, (SPEED,)
    ).metrics[0]
    for one, other in zip(part.variants, plain.variants, strict=True):
        assert one.value.interval.upper * unit == pytest.approx(other.value.interval.upper)
    assert part.comparisons[0].findings[0].p == pytest.approx(plain.comparisons[0].findings[0].p)


SPEED = MEASURED["tokens_per_second"]


def streaming(seed: int, ms: int) -> VariantEvidence:
    """Streams of a hundred tokens among twice as many answers that say their tokens."""
    random = np.random.default_rng(seed)
    slices = {}
    for number, n in enumerate(random.poisson(20, 50).tolist()):
        tokens = int(random.poisson(100 * n))
        amounts = {"streams": n, "usage": 2 * n, "streamed_tokens": tokens, "generation_ms": ms * n}
        slices[number] = SliceEvidence(2 * n, 0, 0, 0, amounts)
    requests = sum(item.requests for item in slices.values())
    totals = {name: sum(item.amounts[name] for item in slices.values()) for name in slices[0].amounts}
    return VariantEvidence({200: requests}, 0, slices, {}, totals)


def test_goals_are_corrected_together_for_their_number_and_the_variants() -> None:
    strata, measured = [stratum(5, 0.5, errors=(0.02, 0.05))], (ERROR_RATE, LATENCY_MEAN, MEASURED["latency_p95"])
    judged = replace(QUESTION, judged=frozenset({"error_rate"}))
    alone = report_of_strata(strata, judged, measured)
    several = report_of_strata(strata, replace(judged, goals=("latency_mean", "error_rate")), measured)
    one, two = compared(alone, "error_rate").findings[0], compared(several, "error_rate").findings[0]
    assert one.p == two.p < 0.05
    assert (one.adjusted, two.adjusted) == pytest.approx((one.p, 2 * one.p))
    assert "p adjusted for 2 goals (Holm)" in as_text(several, "text")
    assert compared(several, "latency_p95") == compared(alone, "latency_p95")
    single = report_of_strata(strata, replace(judged, goals=("error_rate",)), measured)
    assert single == alone


def test_a_variant_of_whose_requests_one_slice_has_many_is_named() -> None:
    plain = stratum(1, 0.5)
    assert not [text for text in report_of_strata([plain], QUESTION, (ERROR_RATE,)).warnings if "one slice" in text]
    b = plain.variants["b"]
    busy = {**b.slices, 7: SliceEvidence(1000, 20, 0, 100_000)}
    heavy = replace(plain, variants={**plain.variants, "b": replace(b, slices=busy)})
    found = report_of_strata([heavy], QUESTION, (ERROR_RATE,)).warnings
    assert "one slice of users has 34% of b's requests in the last stage, so a few users may speak for all" in found
