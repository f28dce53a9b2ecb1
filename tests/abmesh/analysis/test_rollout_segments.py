"""A rollout's report by segment: sums, reversals, and how often equal segments seem to differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.analysis.records import AnalysisReport, ComparedVariant, MetricReport
from abmesh.analysis.render import as_json, as_text
from abmesh.analysis.rollout_evidence import RolloutQuestion
from abmesh.analysis.rollout_report import report_of_strata
from abmesh.analysis.rollout_segments import NO_GROUPS, ROUGHLY, TOO_FEW, VALID, with_segments
from abmesh.experiment import metrics
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import merge, size
from controller.codec.evidence import pack, unpack
from controller.evidence.counts import BinKey, Counts, SegmentKey, place_in
from controller.evidence.strata import Stratum, denominator, numerator
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize

QUESTION = RolloutQuestion(
    name="chat", control="a", slices=50, alpha=0.05, split_alpha=0.01, tuned_for=1000, tuned_alpha=0.05
)
SEGMENTS = ("power", "casual")
AVAILABLE = metrics.available(
    ["click", "thumbs_up", "thumbs_down", "purchase"], ["purchase"], priced=True, sessions=True
)
SHOWN = tuple(
    AVAILABLE[name]
    for name in (
        "error_rate",
        "latency_mean",
        "latency_p50",
        "latency_p95",
        "ttft_p90",
        "output_tokens_mean",
        "cost_per_success",
        "click_rate",
        "thumbs",
    )
)


@dataclass(frozen=True)
class Kind:
    """What users of one segment get from one variant; durations of 0 ms are not counted."""

    users: int = 150
    requests: float = 10.0
    errors: float = 0.02
    clicks: float = 0.1
    tokens: float = 100.0
    ms: float = 100.0


def counted(random: np.random.Generator, kinds: Mapping[tuple[str, str], Kind]) -> dict[str, VariantEvidence]:
    """Evidence of users who repeat and are as they are: by variant and segment, kinds of them."""
    requests: dict[tuple[str, int, int], int] = {}
    amounts: dict[tuple[str, int, str], int] = {}
    segments: dict[SegmentKey, int] = {}
    bins: dict[BinKey, int] = {}

    def put(variant: str, segment: str, slice_: int, amount: str, n: int) -> None:
        amounts[variant, slice_, amount] = amounts.get((variant, slice_, amount), 0) + n
        if amount != metrics.DURATION_MS:
            key = (variant, place_in(segment, slice_ // 5), amount)
            segments[key] = segments.get(key, 0) + n

    for (variant, segment), kind in kinds.items():
        for _ in range(kind.users):
            slice_ = int(random.integers(50))
            n = int(random.poisson(kind.requests * random.gamma(2, 0.5)))
            failed = int(random.binomial(n, min(1.0, kind.errors * random.gamma(2, 0.5))))
            for code, count in ((200, n - failed), (503, failed)):
                if count:
                    requests[variant, slice_, code] = requests.get((variant, slice_, code), 0) + count
                    key = (variant, place_in(segment, slice_ // 5), code)
                    segments[key] = segments.get(key, 0) + count
            put(variant, segment, slice_, "events:click", int(random.poisson(n * kind.clicks * random.gamma(2, 0.5))))
            put(variant, segment, slice_, "events:thumbs_up", int(random.binomial(n, 0.2)))
            put(variant, segment, slice_, "events:thumbs_down", int(random.binomial(n, 0.1)))
            put(variant, segment, slice_, metrics.USAGE, n - failed)
            put(variant, segment, slice_, metrics.INPUT_TOKENS, 10 * (n - failed))
            tokens = int(random.poisson(kind.tokens * random.gamma(5, 0.2) * (n - failed)))
            put(variant, segment, slice_, metrics.OUTPUT_TOKENS, tokens)
            if not kind.ms:
                continue
            slowness = kind.ms * math.exp(random.normal(0, 0.2))
            durations = np.maximum(np.round(slowness * np.exp(random.normal(0, 0.3, n))), 1)
            put(variant, segment, slice_, metrics.DURATION_MS, int(durations.sum()))
            for name in ("duration", "ttft"):
                for duration in durations:
                    width = 1.0 if duration < 100 else 10.0
                    lower = float(duration // width * width)
                    for place in (slice_ // 5, place_in(segment, slice_ // 5)):
                        bin_key = (variant, name, place, lower, width)
                        bins[bin_key] = bins.get(bin_key, 0) + 1
    prices = {name: Price(input=0.5, output=2.0) for name in ("a", "b")}
    return summarize(Counts(requests, amounts, bins, segments), ("a", "b"), prices)


def stratum(seed: int, kinds: Mapping[tuple[str, str], Kind], share: float = 0.5) -> Stratum:
    points = round(share * 10_000)
    return Stratum({"a": 10_000 - points, "b": points}, counted(np.random.default_rng(seed), kinds))


def alike(kind: Kind = Kind(), **changes: float) -> dict[tuple[str, str], Kind]:
    """Both variants and segments alike, but for changes of b."""
    return {
        (variant, segment): replace(kind, **changes) if variant == "b" else kind  # type: ignore[arg-type] # numbers
        for variant in ("a", "b")
        for segment in SEGMENTS
    }


def report(strata: Sequence[Stratum], measured: Sequence[metrics.Metric] = SHOWN) -> AnalysisReport:
    return with_segments(report_of_strata(strata, QUESTION, measured), strata, QUESTION, measured, SEGMENTS)


def part_of(found: AnalysisReport, name: str) -> MetricReport:
    return next(part for part in found.metrics if part.metric.name == name)


def by_segment(found: AnalysisReport, name: str) -> dict[str, ComparedVariant]:
    return {item.segment: item for item in part_of(found, name).segments}


def difference(item: ComparedVariant) -> float:
    value = item.findings[0].difference.value
    assert value is not None
    return value


def test_what_is_not_counted_by_segment_is_left_out() -> None:
    counted_so = {name for name, metric in AVAILABLE.items() if metrics.in_segments(metric)}
    assert AVAILABLE.keys() - counted_so == {
        "latency_mean",
        "ttft_mean",
        "tokens_per_second",
        "refusal_rate",
        "cache_rate",
        *(f"{event}_per_session" for event in ("click", "thumbs_up", "thumbs_down", "purchase")),
        "purchase_value_mean",
        "purchase_value_per_request",
    }
    found = report([stratum(1, alike())])
    assert not part_of(found, "latency_mean").segments
    assert all(len(part_of(found, metric.name).segments) == 2 for metric in SHOWN if metrics.in_segments(metric))


def test_segments_add_up_to_the_whole() -> None:
    one = stratum(3, alike(Kind(users=40), clicks=0.3))
    for evidence in one.variants.values():
        parts = [evidence.in_segment(segment) for segment in (*SEGMENTS, "other")]
        for metric in SHOWN:
            if metric.quantile is not None:
                wholes, found = (
                    [size(merge(item.histograms(metric.histogram).values())) for item in items]
                    for items in ([evidence], parts)
                )
                assert sum(found) == sum(wholes) > 0
            elif metrics.in_segments(metric):
                assert sum(numerator(part, metric) for part in parts) == pytest.approx(numerator(evidence, metric))
                assert sum(denominator(part, metric) for part in parts) == denominator(evidence, metric)
        for part in parts:
            assert sum(item.requests for item in part.slices.values()) == part.requests
            assert sum(item.errors for item in part.slices.values()) == part.errors


def test_a_segment_that_everybody_is_in_is_compared_as_the_whole_is() -> None:
    """Only how users differ is measured between ten groups in the place of fifty slices."""
    kinds = {("a", "other"): Kind(), ("b", "other"): Kind(errors=0.06, clicks=0.2, tokens=150, ms=140)}
    found = report([stratum(2, kinds), stratum(3, kinds, 0.3)])
    for name in ("error_rate", "output_tokens_mean", "cost_per_success", "thumbs", "click_rate", "latency_p50"):
        (segment,) = part_of(found, name).segments
        (whole,) = part_of(found, name).comparisons
        assert segment.segment == "other"
        assert segment.findings[0].valid == (ROUGHLY if name == "latency_p50" else VALID)
        assert segment.verdict == whole.verdict, name
        value = whole.findings[0].difference.value
        assert value is not None
        assert difference(segment) == pytest.approx(value, abs=0.2 * abs(value) + 0.02), name


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 0.4))
def test_exchanging_the_variants_turns_the_signs(seed: int, clicks: float) -> None:
    one = stratum(seed, alike(Kind(users=40), clicks=clicks, errors=0.05, tokens=130, ms=140))
    turned = Stratum(one.weights, {"a": one.variants["b"], "b": one.variants["a"]})
    measured = tuple(AVAILABLE[name] for name in ("error_rate", "latency_p95", "cost_per_success", "thumbs"))
    there, back = report([one], measured), report([turned], measured)
    for metric in measured:
        for segment, item in by_segment(there, metric.name).items():
            other = by_segment(back, metric.name)[segment]
            assert difference(other) == pytest.approx(-difference(item))


BETTER_AND_WORSE = {
    ("a", "power"): Kind(clicks=0.05),
    ("b", "power"): Kind(clicks=0.2),
    ("a", "casual"): Kind(clicks=0.2),
    ("b", "casual"): Kind(clicks=0.05),
}


def test_segments_that_differ_in_direction_are_named_with_their_numbers() -> None:
    found = report([stratum(4, BETTER_AND_WORSE)])
    segments = by_segment(found, "click_rate")
    assert {name: item.verdict for name, item in segments.items()} == {"power": "higher", "casual": "lower"}
    (remark,) = part_of(found, "click_rate").remarks
    assert remark.startswith("click_rate of b against a is better for power (")
    assert " and worse for casual (" in remark
    power = segments["power"].within
    assert power is not None
    assert f"({power.variant * 100:.4g}% against {power.control * 100:.4g}%, +" in remark
    assert not part_of(found, "error_rate").remarks or "may be chance" in part_of(found, "error_rate").remarks[0]


def test_fewer_errors_are_better_and_fewer_tokens_neither() -> None:
    kinds = {
        key: replace(kind, errors=kind.clicks, tokens=kind.clicks * 1000) for key, kind in BETTER_AND_WORSE.items()
    }
    found = report([stratum(5, kinds)])
    assert "better for casual (" in part_of(found, "error_rate").remarks[0]
    assert "worse for power (" in part_of(found, "error_rate").remarks[0]
    assert "higher for power (" in part_of(found, "output_tokens_mean").remarks[0]
    assert "lower for casual (" in part_of(found, "output_tokens_mean").remarks[0]


def test_a_difference_that_may_be_chance_is_called_so() -> None:
    kinds = {key: replace(kind, users=40) for key, kind in BETTER_AND_WORSE.items()}
    kinds["b", "power"], kinds["b", "casual"] = Kind(users=40, clicks=0.1), Kind(users=40, clicks=0.12)
    (remark,) = part_of(report([stratum(6, kinds)]), "click_rate").remarks
    assert remark.count("which may be chance, p ") >= 2
    same = {key: replace(kind, clicks=1.0 if key[0] == "b" else 0.1) for key, kind in kinds.items()}
    assert part_of(report([stratum(7, same)]), "click_rate").remarks == []


def test_a_whole_that_says_the_opposite_of_its_segments_is_a_warning() -> None:
    """Power users click more; b has more of them, and less clicks of each kind."""
    kinds = {
        ("a", "power"): Kind(users=50, clicks=0.5),
        ("b", "power"): Kind(users=250, clicks=0.4),
        ("a", "casual"): Kind(users=250, clicks=0.1),
        ("b", "casual"): Kind(users=50, clicks=0.05),
    }
    found = report([stratum(8, kinds)])
    (warning,) = [each for each in found.warnings if "click_rate" in each]
    assert warning.startswith("Simpson's paradox: click_rate of b differs from a by +")
    assert "over all segments together, but by -" in warning
    assert all(difference(item) < 0 for item in part_of(found, "click_rate").segments)


@pytest.mark.simulation
def test_users_who_repeat_raise_false_alarms_no_more_often_than_asked_for() -> None:
    """Of 50 reports on variants that do not differ, some 5% may hold a segment that seems to; counts alone: 20%."""
    measured = tuple(AVAILABLE[name] for name in ("error_rate", "click_rate"))
    kinds = alike(Kind(users=60, requests=20, errors=0.05, ms=0))
    alarms = {metric.name: 0 for metric in measured}
    for seed in range(50):
        found = report([stratum(1000 + seed, kinds)], measured)
        for part in found.metrics:
            alarms[part.metric.name] += any(item.findings[0].significant for item in part.segments)
    assert all(count <= 50 * 0.05 + 3 * math.sqrt(50 * 0.05 * 0.95) for count in alarms.values()), alarms


@pytest.mark.simulation
def test_a_quantile_of_equal_segments_rarely_differs() -> None:
    measured = (AVAILABLE["latency_p95"],)
    kinds = alike(Kind(users=60, requests=10))
    alarms = 0
    for seed in range(30):
        segments = report([stratum(5000 + seed, kinds)], measured).metrics[0].segments
        alarms += any(item.findings[0].significant for item in segments)
    assert alarms <= 30 * 0.05 + 3 * math.sqrt(30 * 0.05 * 0.95)


@pytest.mark.simulation
@pytest.mark.parametrize("users", [20, 30])
def test_a_segment_of_few_heavy_users_seems_to_differ_no_more_often_than_asked_for(users: int) -> None:
    """40 or 60 users of both variants, who differ as much as their requests are many: lending found 8 to 21%."""
    names = ("error_rate", "click_rate", "output_tokens_mean")
    measured = tuple(AVAILABLE[name] for name in names)
    kinds = {key: Kind(users=150, requests=5, ms=0) for key in alike()}
    kinds |= {(variant, "power"): Kind(users=users, requests=200, ms=0) for variant in ("a", "b")}
    alarms, runs = dict.fromkeys(names, 0), 40
    for seed in range(runs):
        for part in report([stratum(9000 + seed, kinds)], measured).metrics:
            alarms[part.metric.name] += any(item.findings[0].significant for item in part.segments)
    assert all(count <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95) for count in alarms.values()), alarms


def test_a_slower_segment_is_distinguished_from_one_that_is_not() -> None:
    kinds = alike()
    kinds["b", "power"] = Kind(ms=150)
    segments = by_segment(report([stratum(9, kinds)]), "latency_p95")
    assert segments["power"].verdict == "higher"
    assert segments["casual"].verdict == "undecided"
    within = segments["power"].within
    assert within is not None
    assert within.variant / within.control == pytest.approx(1.5, abs=0.15)
    assert segments["power"].findings[0].difference.interval.lower > 0


def test_p_values_of_segments_are_corrected_together() -> None:
    found = report([stratum(4, BETTER_AND_WORSE)])
    findings = [item.findings[0] for item in part_of(found, "thumbs").segments]
    low, high = sorted(finding.p for finding in findings)
    assert sorted(finding.adjusted for finding in findings) == [min(2 * low, high), high]


def test_a_segment_that_only_one_variant_has_seen_is_not_compared() -> None:
    kinds = alike()
    del kinds["b", "casual"]
    found = report([stratum(10, kinds)])
    assert [item.segment for item in part_of(found, "error_rate").segments] == ["power"]
    nobody = report([Stratum({"a": 5000, "b": 5000}, {})])
    assert all(not part.segments for part in nobody.metrics)
    assert nobody.warnings == []


def test_a_segment_of_few_users_has_values_and_no_p() -> None:
    kinds = {key: replace(kind, users=2) if key[1] == "power" else kind for key, kind in alike().items()}
    kinds["b", "power"] = replace(kinds["b", "power"], clicks=0.9, errors=0.9)
    found = report([stratum(10, kinds)])
    for name in ("error_rate", "click_rate", "latency_p95", "output_tokens_mean"):
        power, casual = (by_segment(found, name)[segment] for segment in SEGMENTS)
        assert math.isnan(power.findings[0].p)
        assert power.findings[0].note == TOO_FEW
        assert power.within is not None
        assert power.verdict == "undecided"
        assert casual.findings[0].p == casual.findings[0].adjusted, "it is not corrected for a comparison without p"
        assert any(
            remark.startswith(f"{name} of power: fewer than 5 of its 10") for remark in part_of(found, name).remarks
        )
    assert f" {TOO_FEW} " in as_text(found, "text")
    record = next(part for part in as_json(found)["metrics"] if part["metric"] == "error_rate")
    assert record["segments"][0]["analyses"][0]["p"] is None


def test_segments_that_were_counted_without_groups_have_values_and_no_p() -> None:
    whole = stratum(11, BETTER_AND_WORSE)
    old = {
        name: replace(evidence, segments={key: replace(part, groups={}) for key, part in evidence.segments.items()})
        for name, evidence in whole.variants.items()
    }
    assert unpack(pack(old)) == old
    found = report([Stratum(whole.weights, old)])
    for name in ("error_rate", "click_rate", "latency_p95"):
        assert {item.findings[0].note for item in part_of(found, name).segments} == {NO_GROUPS}
        assert "Envoy was rendered before it counted segments by groups" in part_of(found, name).remarks[-1]
    both = report([Stratum(whole.weights, old), whole])
    assert all(not math.isnan(item.findings[0].p) for item in part_of(both, "click_rate").segments)
    assert any("were counted by groups of users as well; only these are compared" in each for each in both.warnings)


def test_requests_missing_from_segments_are_a_warning() -> None:
    whole = stratum(11, alike())
    before = Stratum(whole.weights, {name: replace(evidence, segments={}) for name, evidence in whole.variants.items()})
    (warning,) = report([before, whole], (AVAILABLE["click_rate"],)).warnings
    assert "the others came while none were declared" in warning
    broken = {
        name: replace(evidence, amounts={**evidence.amounts, metrics.BROKEN: 7})
        for name, evidence in whole.variants.items()
    }
    (warning,) = report([Stratum(whole.weights, broken)], (AVAILABLE["click_rate"],)).warnings
    assert warning.startswith("14 answers that the upstream broke off are errors of the whole and of no segment")


def test_answers_that_clients_left_are_a_warning_where_successes_count() -> None:
    whole = stratum(11, alike())
    left = {
        name: replace(evidence, amounts={**evidence.amounts, metrics.LEFT: 7})
        for name, evidence in whole.variants.items()
    }
    (warning,) = report([Stratum(whole.weights, left)], (AVAILABLE["cost_per_success"],)).warnings
    assert warning.startswith("14 answers that the client left are successes of segments and not of the whole")
    assert report([Stratum(whole.weights, left)], (AVAILABLE["click_rate"],)).warnings == []


def test_every_format_shows_both_values_the_difference_and_what_to_make_of_it() -> None:
    found = report([stratum(4, BETTER_AND_WORSE)])
    for style, line in (("text", "segment  requests"), ("markdown", "| segment | requests |")):
        text = as_text(found, style)  # type: ignore[arg-type] # one of its literals
        assert "click_rate by segment: for exploring, not for deciding" in text
        assert line in text
        assert "better for power (" in text
        assert ": segments are compared as the whole is, with ten groups" in text
        assert "latency_mean by segment" not in text
    record = as_json(found)
    clicks = next(part for part in record["metrics"] if part["metric"] == "click_rate")
    power = clicks["segments"][0]
    assert power["segment"] == "power"
    assert power["in_variant"]["value"] - power["in_control"]["value"] == pytest.approx(
        power["analyses"][0]["difference"]["value"]
    )
    assert power["in_control"]["requests"] > 1000
    assert power["analyses"][0]["p_adjusted"] <= 0.05
    assert clicks["remarks"][0].startswith("click_rate of b against a is better for power")
